"""What a node needs to have an environment: a pack of the server's, or the programs that build one."""

import os
import platform
import tempfile
from typing import Any, Dict, Optional

from runyard.client.http import Server
from runyard.environments.pack import Pulled, platform_here
from runyard.environments.uv import find_uv
from runyard.errors import EnvironmentBuildError, NotFoundError
from runyard.runner.folder import AttemptFolder


def find_pack(folder: AttemptFolder, server: Server) -> Optional[Pulled]:
    """The run's environment as the server has built it; None, with a line in the runner's log, where it has no such."""
    names: Dict[str, Any] = {"workspace": folder.plan.workspace, "run_id": folder.plan.run_id}
    query = {"platform": platform_here()}
    try:
        found = server.call("find_environment_pack", None, query, **names)
    except NotFoundError as error:
        folder.say(str(error))
        return None
    return Pulled(found.digest, found.size_bytes, server.stream("read_environment_pack", query, **names))


def uv_of(folder: AttemptFolder, server: Server) -> str:
    """Path of a uv for this node; EnvironmentBuildError where there is none, here or on the server for such a node."""
    try:
        return find_uv()
    except EnvironmentBuildError:
        name = f"uv-{platform.system()}-{platform.machine()}"
    tools = os.path.join(folder.facts.cache_folder, "tools")
    path = os.path.join(tools, f"{name}-{folder.plan.kit}", "uv")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _fetch(folder, server, name, path)
    return path


def _fetch(folder: AttemptFolder, server: Server, name: str, path: str) -> None:
    plan = folder.plan
    handle, made = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".fetching-")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in server.stream("read_node_file", workspace=plan.workspace, run_id=plan.run_id, name=name):
                file.write(piece)
        os.chmod(made, 0o755)
        os.replace(made, path)
    except NotFoundError as error:
        raise EnvironmentBuildError(f"This node has no uv to build an environment with: {error}") from None
    finally:
        if os.path.exists(made):
            os.unlink(made)

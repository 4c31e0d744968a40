"""Environments: those that users register, and the curated ones."""

import os
from pathlib import Path
from typing import List

from runyard.db import environments, workspaces
from runyard.environments.curated import get_curated, is_reserved, list_curated
from runyard.environments.spec import check_day
from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol.environments import (
    BuildStatus,
    Environment,
    EnvironmentBody,
    EnvironmentBuild,
    EnvironmentSpec,
    StoredFile,
    spec_digest,
)
from runyard.protocol.workspaces import Workspace
from runyard.server import names
from runyard.server.call import Call, Content, Upload
from runyard.server.threads import in_thread

#: What one answer shows of a build's log, bytes.
LOG_BYTES = 256 * 1024


def register_environment(call: Call) -> Environment:
    """Its next version; the names of curated environments are reserved."""
    body: EnvironmentBody = call.body
    spec = call.parts.sealer.seal_spec(body.spec)
    names.check_asset_name(spec.name)
    names.check_variables(spec.variables)
    check_day(spec.python)
    if is_reserved(spec.name):
        raise UserErrorException(
            f"The name {spec.name!r} is reserved for curated environments; choose another, or clone(new_name=...)."
        )
    digest = spec_digest(spec)
    return call.parts.database.write(
        lambda c: environments.register_environment(c, spec, digest, call.workspace, call.user, call.now)
    )


def list_environments(call: Call) -> List[Environment]:
    """Registered and curated ones."""
    with call.parts.database.read() as connection:
        workspace = workspaces.get_workspace(connection, call.workspace)
        found = environments.list_environments(connection, call.workspace)
    return found + [_curated(spec, workspace) for spec in list_curated()]


def get_environment(call: Call) -> Environment:
    """By name and version."""
    name, version = call.path["name"], call.query.get("version") or None
    with call.parts.database.read() as connection:
        workspace = workspaces.get_workspace(connection, call.workspace)
        if not is_reserved(name):
            return environments.get_environment(connection, call.workspace, name, version)
        found = _curated(get_curated(name), workspace)
        if version not in (None, found.version):
            raise NotFoundError(
                f"The curated environment {name!r} has the version {found.version} alone, not {version!r}."
            )
        return found


def build_environment(call: Call) -> EnvironmentBuild:
    """Have it built, or say how far that is; called again and again by whoever waits. ``look=1`` begins nothing."""
    body: EnvironmentBody = call.body
    check_day(body.spec.python)
    spec = call.parts.sealer.seal_spec(body.spec)
    builds = call.parts.builds
    with call.parts.database.read() as connection:
        lock = builds.find_ready(connection, spec_digest(spec))
    if lock is not None:
        builds.forget(spec)
        return EnvironmentBuild(BuildStatus.SUCCEEDED, lock=lock)
    if call.query.get("look") == "1":
        return EnvironmentBuild(BuildStatus.QUEUED)
    state = builds.request(spec)
    log = _end_of(state.log_path)
    if state.state != "failed":
        return EnvironmentBuild(BuildStatus.RUNNING, log)
    builds.forget(spec)
    return EnvironmentBuild(BuildStatus.FAILED, log, state.error)


async def write_environment_file(call: Call) -> StoredFile:
    """Keep a wheel or a build context; one name stands for one content unless ``exist_ok`` says so."""
    body: Upload = call.body
    found = StoredFile(call.workspace, call.path["sha256"], call.path["name"])
    await in_thread(call.parts.environment_files.keep, found, body.path, call.query.get("exist_ok") == "1")
    return found


async def read_environment_file(call: Call) -> Content:
    """The bytes of one."""
    wanted = StoredFile(call.workspace, call.path["sha256"], call.path["name"])
    file = await in_thread(call.parts.environment_files.open, wanted)
    return Content(file=file, size_bytes=os.fstat(file.fileno()).st_size)


def _end_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _curated(spec: EnvironmentSpec, workspace: Workspace) -> Environment:
    return Environment(spec.name, spec.version, workspace.name, spec, "runyard", workspace.created_at, is_curated=True)

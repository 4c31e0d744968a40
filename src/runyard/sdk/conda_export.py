"""The packages of a conda environment of this machine, as conda itself lists them."""

import shutil
import subprocess

from runyard.errors import UserErrorException
from runyard.protocol.environments import CondaSpec

#: Any of these can list an environment; longest wait for it, seconds.
TOOLS, TIMEOUT_S = ("conda", "mamba", "micromamba"), 120


def export(name: str) -> CondaSpec:
    """What conda exports of it; UserErrorException where there is no conda, or no environment of that name."""
    from runyard.environments.spec import read_conda_yaml

    tool = next((found for found in map(shutil.which, TOOLS) if found), None)
    if tool is None:
        raise UserErrorException(
            "from_existing_conda_environment() asks conda, mamba or micromamba, and none is on the PATH; "
            "export the environment where conda is, and use from_conda_specification()."
        )
    done = subprocess.run(
        [tool, "env", "export", "--name", name, "--no-builds"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it gave no reason"]
        raise UserErrorException(f"conda cannot export the environment {name!r}: {said[0]}")
    return read_conda_yaml(done.stdout.decode("utf-8", "replace"), f"conda's list of {name!r}")

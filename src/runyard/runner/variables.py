"""The environment in which a script starts. Of two that set one variable, the later in this list has it:

the machine's own, scrubbed; v1's; what tells a distributed process of the others (``wired``); Runyard's own; paths of
inputs and outputs, under their bare names only where those are free; the user's; which GPUs are the run's. What control
knows of a run, and its node does not, comes in ``LaunchPlan.v1_variables`` (control/plan.py).
"""

import os
import re
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional

from runyard.client.home import read_server_file
from runyard.protocol.distributed import Distribution, framework_of
from runyard.protocol.plan import LaunchPlan
from runyard.runner.folder import AttemptFolder

#: What a job may see of the machine's own environment, proxies beside it (KEPT_ANY_CASE).
KEPT = ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH")
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_")
#: What a job in an image may see of it.
KEPT_IN_IMAGE = ("USER", "LOGNAME", "LANG", "LANGUAGE", "TZ")
KEPT_ANY_CASE = ("http_proxy", "https_proxy", "no_proxy")

#: A run's token works until the run has ended; how far ahead v1's variable for its end says that is, seconds.
TOKEN_SHOWN_S = 30 * 86_400

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def job_variables(
    folder: AttemptFolder, interpreter: str, data: Dict[str, str], image_path: str = ""
) -> Callable[[Dict[str, str]], Dict[str, str]]:
    """Gives every variable of a process of the job, from those that tell it of the others; finds the rest out once.

    ``data`` maps the names of inputs and outputs to their paths here. ``image_path`` is the PATH inside the image that
    the job runs in; empty: it runs on this host.
    """
    common = _image_variables(folder, image_path) if image_path else _host_variables(interpreter)
    common.update(_v1_variables(folder))
    fixed = _fixed_variables(folder, image_path)

    def make(wired: Dict[str, str]) -> Dict[str, str]:
        values = {**common, **wired, **fixed}
        for name, path in data.items():
            values["AZUREML_DATAREFERENCE_" + name] = path
        # An input called "path" or "home" must not become the PATH or the HOME of the script, nor "data" the one of
        # "DATA".
        for short, path in [*data.items(), *((name.upper(), path) for name, path in data.items())]:
            values.setdefault(short, path)
        mine = {name: expand(text, values) for name, text in folder.plan.variables.items()}
        mine.update(gpu_variables(folder))
        if "PYTHONPATH" in mine:
            mine["PYTHONPATH"] = os.pathsep.join([mine["PYTHONPATH"], values["PYTHONPATH"]])
        return {**values, **mine}

    return make


def _fixed_variables(folder: AttemptFolder, image_path: str) -> Dict[str, str]:
    """Runyard's own: no launcher and no input changes them; only a user's variable of the same name does."""
    facts = folder.facts
    values = {
        "PYTHONPATH": os.path.join(facts.cache_folder, "kits", folder.plan.kit),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder.path / "tmp"),
        "RUNYARD_KEY": folder.key,
        "RUNYARD_SPOOL": str(folder.spool),
        "RUNYARD_SERVER": facts.server_url,
    }
    if facts.server_file and not image_path:
        values["RUNYARD_SERVER_FILE"] = str(folder.server_file) if folder.is_apart else facts.server_file
    if folder.has_user:
        # The server's own home is closed to it, and no name belongs to its id.
        values.update(HOME=str(folder.path / "home"), USER="runyard", LOGNAME="runyard")
    return values


def gpu_variables(folder: AttemptFolder) -> Dict[str, str]:
    """What keeps the script to the GPUs that are its own, whatever its user says; nothing where all are."""
    mine = own_gpus(folder)
    if mine is None:
        return {}
    # A container sees no others, and counts its own from 0.
    shown = [str(place) for place in range(len(mine))] if folder.plan.container is not None else mine
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(shown),
        "NVIDIA_VISIBLE_DEVICES": ",".join(shown) or "none",
        # CUDA would else number them by their speed.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def own_gpus(folder: AttemptFolder) -> Optional[List[str]]:
    """The numbers of this node's GPUs that are the run's; None: all."""
    if folder.plan.gpus is None:
        return None
    return [number for number in folder.plan.gpus[folder.node].split(",") if number]


def _host_variables(interpreter: str) -> Dict[str, str]:
    values = {name: text for name, text in os.environ.items() if _is_kept(name)}
    binaries = os.path.dirname(interpreter)
    values["PATH"] = os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)])
    if os.path.exists(os.path.join(os.path.dirname(binaries), "pyvenv.cfg")):
        values["VIRTUAL_ENV"] = os.path.dirname(binaries)
    return values


def _image_variables(folder: AttemptFolder, path: str) -> Dict[str, str]:
    """An image has its own libraries and programs; the caller's home is not there, and its uid may have none."""
    values = {name: text for name, text in os.environ.items() if _is_kept_in_image(name)}
    return {**values, "PATH": path, "HOME": str(folder.path / "tmp")}


def expand(text: str, values: Dict[str, str]) -> str:
    """``text`` with $NAME and ${NAME} replaced where ``values`` has them, and left as they are elsewhere."""
    return _VARIABLE.sub(lambda found: values.get(found.group(1) or found.group(2), found.group(0)), text)


def job_command(plan: LaunchPlan, interpreter: str, values: Dict[str, str]) -> List[str]:
    """The words of the process to start."""
    words = list(plan.command) if plan.command else [interpreter, plan.script or ""]
    return [expand(word, values) for word in words + list(plan.arguments)]


def _is_kept(name: str) -> bool:
    return name in KEPT or name.startswith(KEPT_PREFIXES) or name.lower() in KEPT_ANY_CASE


def _is_kept_in_image(name: str) -> bool:
    return name in KEPT_IN_IMAGE or name.startswith("LC_") or name.lower() in KEPT_ANY_CASE


def _launcher(asked: Optional[Distribution]) -> Dict[str, str]:
    """What starts the processes, in v1's words."""
    framework, communicator = framework_of(asked)
    return {"AZUREML_FRAMEWORK": framework, "AZUREML_COMMUNICATOR": communicator}


def _v1_variables(folder: AttemptFolder) -> Dict[str, str]:
    """The names of the public contract that a script may read: a variable of v1's for every run goes here."""
    plan, facts = folder.plan, folder.facts
    found = read_server_file(Path(facts.server_file)) if facts.server_file else None
    url = str(found["url"]) if found else facts.server_url
    return {
        "AZUREML_RUN_ID": plan.run_id,
        "AZUREML_RUN_TOKEN": folder.secret,
        **plan.v1_variables,
        # The token works until the run has ended. The SDK of v1 wanted the other three beside it; they carry nothing.
        "AZUREML_RUN_TOKEN_EXPIRY": str(int(time.time()) + TOKEN_SHOWN_S),
        "AZUREML_RUN_TOKEN_RAND": plan.run_id,
        "AZUREML_RUN_TOKEN_PASS": plan.run_id,
        "AZUREML_SERVICE_ENDPOINT": url,
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT": url,
        "AZUREML_EXPERIMENTATION_HOST": url,
        **_launcher(plan.distribution),
        "AZUREML_TARGET_TYPE": plan.target_type,
        "AZUREML_CR_EXECUTION_WORKING_DIR_PATH": str(folder.work),
        "AZUREML_OUTPUT_DIRECTORY": str(folder.work / "outputs"),
        "AZUREML_LOGDIRECTORY_PATH": str(folder.work / "logs"),
        "AZUREML_DATASET_ENVIRONMENT_VARS": ",".join(one.name for one in plan.inputs if one.dataset_id is not None),
        "AZUREML_DATASET_FILE_OUTPUTS": ",".join(one.name for one in plan.outputs if not one.is_reference),
        "AZUREML_RUN_ATTEMPT": str(plan.attempt),
        "AZUREML_EVICTION_NOTICE": str(folder.eviction),
        "AZ_BATCHAI_TASK_TYPE": "worker",
        "AZ_BATCHAI_TASK_INDEX": "0",
        "AZ_BATCHAI_JOB_TEMP": str(folder.path / "tmp"),
    }

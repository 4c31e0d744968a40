"""Azure's curated environments by name, from the data file beside this: what each held, as far as that was public."""

import json
import os
from typing import Any, Dict, List, Optional

from runyard.errors import NotFoundError
from runyard.protocol.environments import CondaSpec, DockerSpec, EnvironmentSpec, PythonSpec

#: A user's own environment cannot have a name that begins so, in any case of letters.
RESERVED_PREFIXES = ("azureml", "microsoft")

#: Curated environments never change here, so each has one version.
CURATED_VERSION = "1"


def is_reserved(name: str) -> bool:
    """May only the system give this name to an environment?"""
    return name.lower().startswith(RESERVED_PREFIXES)


def find_curated(name: str) -> Optional[EnvironmentSpec]:
    """The curated environment of that name (in any case of letters); None if there is none."""
    entries = _entries()
    exact = name if name in entries else next((one for one in entries if one.lower() == name.lower()), None)
    return None if exact is None else _spec(exact, entries[exact])


def get_curated(name: str) -> EnvironmentSpec:
    """The curated environment of that name; NotFoundError names those that begin alike."""
    spec = find_curated(name)
    if spec is None:
        stem = name.lower()[: len("azureml-") + 4]
        alike = [one for one in _entries() if one.lower().startswith(stem)] or list(_entries())
        raise NotFoundError(f"There is no curated environment '{name}'; there is " + ", ".join(alike) + ".")
    return spec


def list_curated() -> List[EnvironmentSpec]:
    """Every curated environment, in the order of the data file."""
    return [_spec(name, entry) for name, entry in _entries().items()]


def _spec(name: str, entry: Dict[str, Any]) -> EnvironmentSpec:
    conda = CondaSpec(channels=tuple(entry["channels"]), packages=tuple(entry["packages"]), pip=tuple(entry["pip"]))
    docker = DockerSpec(base_image=entry["image"], gpu_support="cuda" in entry["image"])
    return EnvironmentSpec(name, CURATED_VERSION, PythonSpec(conda=conda), docker)


_loaded: Dict[str, Any] = {}


def _entries() -> Dict[str, Any]:
    if not _loaded:
        with open(os.path.join(os.path.dirname(__file__), "curated.json"), encoding="utf-8") as stream:
            _loaded.update(json.load(stream))
    return _loaded

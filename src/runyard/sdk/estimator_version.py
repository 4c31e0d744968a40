"""The versions of frameworks that estimators know, from the data file beside this: what each needs installed."""

import json
import os
from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple

from runyard.errors import TrainingException
from runyard.protocol.record import record
from runyard.sdk.notices import say_once


@record
class FrameworkVersion:
    """A release of a framework, as requirements for pip."""

    framework: str
    version: str
    #: One may be there for its day: sources from before February 2019 cannot be built with the tools of their own day.
    packages: Tuple[str, ...]
    #: In place of ``packages``, for GPUs; empty: the same ones.
    gpu: Tuple[str, ...] = ()
    #: What must be on the node for those to start at all, as "CUDA 10.0"; '' where they start without it.
    gpu_needs: str = ""
    #: v1's image for GPUs; '' for the default one.
    gpu_image: str = ""
    #: More, for a job that MPI starts.
    mpi: Tuple[str, ...] = ()
    #: '' where the packages themselves tell the Python that they need.
    python: str = ""


def supported_versions(framework: str) -> List[str]:
    """The versions that ``framework_version`` may be, oldest first."""
    return list(_frameworks()[framework]["versions"])


def default_version(framework: str) -> str:
    """The version where none is asked for."""
    return str(_frameworks()[framework]["default"])


def find_version(framework: str, version: Optional[str]) -> FrameworkVersion:
    """What that version needs (None: the default one); TrainingException names those that there are."""
    asked = default_version(framework) if version is None else str(version)
    entries = _frameworks()[framework]["versions"]
    if asked not in entries:
        raise TrainingException(
            f"framework_version {version!r} is none that the {framework} estimator knows: it is one of "
            f"{', '.join(entries)}; for another one name the package in the environment of a ScriptRunConfig."
        )
    instead = entries[asked].get("instead")
    if instead is not None:
        say_once(
            f"{framework} {asked} has no build for a Python that a run can use: {framework} {instead}, the nearest "
            "that has, is taken."
        )
        return find_version(framework, instead)
    fields: Dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in entries[asked].items()
    }
    return FrameworkVersion(framework, asked, **fields)


@lru_cache(maxsize=1)
def _frameworks() -> Dict[str, Any]:
    with open(os.path.join(os.path.dirname(__file__), "frameworks.json"), encoding="utf-8") as stream:
        found: Dict[str, Any] = json.load(stream)
    return found

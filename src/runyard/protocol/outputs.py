"""A folder that a run writes, and that becomes files of a datastore and a dataset of them. Pure."""

from dataclasses import replace
from typing import Optional, Tuple

from runyard.protocol.datasets import DatasetSpec, Source
from runyard.protocol.record import record

#: Where an output goes unless its owner says: v1's folder, which no other run has.
DEFAULT_PATH = "dataset/{run-id}/{output-name}"
_RUN_ID, _NAME = "{run-id}", "{output-name}"


class OutputMode:
    """How what a run writes reaches its datastore."""

    #: The datastore's own folder where the node has it; else stored after the script, however that ended.
    MOUNT = "mount"
    #: A folder of the run, stored after a script that succeeded.
    UPLOAD = "upload"


@record
class OutputSpec:
    """An output as asked."""

    #: Names the environment variables that hold the path; letters, digits and '_'.
    name: str
    datastore: str
    mode: str = OutputMode.MOUNT
    #: {run-id} and {output-name} in it are filled in.
    path: str = DEFAULT_PATH
    #: The folder on the node; None: one of the run's own.
    source: Optional[str] = None
    #: May files that are there already be written over?
    overwrite: bool = False
    #: Patterns of what is stored, relative to the folder; none: everything.
    globs: Tuple[str, ...] = ()
    #: The dataset of these files once the run has completed, its sources yet to be filled in; None: v1's DataReference.
    dataset: Optional[DatasetSpec] = None
    #: Which of the files are the dataset's, a pattern below the folder; '': all.
    pattern: str = ""


@record
class OutputPlan:
    """An output, resolved to its place."""

    name: str
    mode: str
    #: A datastore and a folder in it.
    target: Source
    source: Optional[str] = None
    globs: Tuple[str, ...] = ()
    overwrite: bool = False
    is_reference: bool = False


def output_path(spec: OutputSpec, run_id: str) -> str:
    """The folder below the datastore's root that a run's output goes to."""
    return spec.path.replace(_RUN_ID, run_id).replace(_NAME, spec.name).strip("/")


def may_overwrite(spec: OutputSpec) -> bool:
    """May files that are there already be written over? A mounted folder's may; so may those that no other run writes.

    Else a second attempt could not store what the first one has stored before it.
    """
    return spec.overwrite or spec.mode == OutputMode.MOUNT or _RUN_ID in spec.path


def made_dataset(spec: OutputSpec, dataset: DatasetSpec, run_id: str) -> DatasetSpec:
    """The dataset of what the run has written; another run of the same script makes another version."""
    path = "/".join(part for part in (output_path(spec, run_id), spec.pattern) if part)
    source = Source(datastore=spec.datastore, path=path)
    return replace(dataset, sources=(source,), create_new_version=True)

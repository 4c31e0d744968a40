"""A model: as asked (ModelSpec), and a registered version of it (Model)."""

from dataclasses import field
from typing import Dict, Optional, Tuple

from runyard.protocol.labels import LabelChange
from runyard.protocol.record import record
from runyard.protocol.runs import Artifact


@record
class ResourceNeeds:
    """What a deployed model asks for."""

    cpu: Optional[float] = None
    memory_in_gb: Optional[float] = None
    gpu: Optional[int] = None


@record
class ModelSpec:
    """A model as asked: from a run's artifacts, or from blobs that the client has sent."""

    name: str
    #: A run and a path among its artifacts (file or folder) ...
    run_id: Optional[str] = None
    path: Optional[str] = None
    #: ... or files already in the store.
    files: Tuple[Artifact, ...] = ()
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    properties: Dict[str, str] = field(default_factory=dict)
    framework: str = "Custom"
    framework_version: Optional[str] = None
    resources: Optional[ResourceNeeds] = None
    #: Datasets that the model came from: pairs of a role and a dataset id.
    datasets: Tuple[Tuple[str, ...], ...] = ()


@record
class ModelChange(LabelChange):
    """A change of a registered version: its labels, and what else is not its files; None leaves a field as it is."""

    resources: Optional[ResourceNeeds] = None
    #: Pairs that are added to those that are there.
    datasets: Tuple[Tuple[str, ...], ...] = ()


@record
class Model:
    """A registered version of a model."""

    id: str
    name: str
    version: int
    workspace: str
    created_by: str
    created_at: int
    #: Digest of the tree of its files.
    tree: str
    files: Tuple[Artifact, ...] = ()
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    properties: Dict[str, str] = field(default_factory=dict)
    framework: str = "Custom"
    framework_version: Optional[str] = None
    resources: Optional[ResourceNeeds] = None
    run_id: Optional[str] = None
    experiment: Optional[str] = None
    datasets: Tuple[Tuple[str, ...], ...] = ()

"""What a workspace holds besides runs: experiments, datastores, datasets, environments, models."""

from dataclasses import field
from typing import Dict, Optional, Tuple

from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.plan import Source
from runyard.protocol.record import record
from runyard.protocol.runs import Artifact

DEFAULT_DATASTORE = "workspaceblobstore"


@record
class WorkspaceSpec:
    """A workspace as asked."""

    name: str
    subscription_id: str = ""
    resource_group: str = ""
    location: str = "local"
    friendly_name: str = ""
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    #: False: an existing one is returned as it is.
    exist_ok: bool = True


@record
class Workspace:
    """A workspace as stored."""

    id: str
    name: str
    subscription_id: str
    resource_group: str
    location: str
    friendly_name: str
    description: str
    created_by: str
    created_at: int
    tags: Dict[str, str] = field(default_factory=dict)


@record
class Experiment:
    """A named series of runs."""

    id: str
    name: str
    workspace: str
    created_by: str
    created_at: int
    tags: Dict[str, str] = field(default_factory=dict)


@record
class Datastore:
    """A place for files, registered in a workspace."""

    name: str
    workspace: str
    kind: str
    is_default: bool
    created_by: str
    created_at: int


@record
class DatastoreFile:
    """A file in a datastore."""

    path: str
    size_bytes: int
    modified_at: int


@record
class DatasetSpec:
    """A dataset as asked: references only, no bytes. With a name it is registered."""

    sources: Tuple[Source, ...]
    kind: str = "file"
    name: Optional[str] = None
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    create_new_version: bool = False


@record
class Dataset:
    """A dataset as stored; immutable but for its labels."""

    id: str
    workspace: str
    kind: str
    sources: Tuple[Source, ...]
    created_by: str
    created_at: int
    name: Optional[str] = None
    version: Optional[int] = None
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)


@record
class Environment:
    """A registered environment."""

    name: str
    version: str
    workspace: str
    spec: EnvironmentSpec
    created_by: str
    created_at: int
    is_curated: bool = False


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


@record
class LabelChange:
    """A change of an asset's labels; None leaves a field as it is."""

    description: Optional[str] = None
    tags: Optional[Dict[str, str]] = None
    remove_tags: Tuple[str, ...] = ()
    properties: Optional[Dict[str, str]] = None


@record
class Page:
    """A page of any list: items in their wire form, and the cursor of the next page."""

    items: Tuple[Dict[str, object], ...]
    next_cursor: Optional[str] = None

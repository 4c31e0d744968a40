"""A dataset: where its files come from (Source), as asked (DatasetSpec), and as stored (Dataset)."""

from dataclasses import field
from typing import Dict, Optional, Tuple

from runyard.protocol.lineage import Totals
from runyard.protocol.record import record
from runyard.protocol.selection import Step


@record
class Source:
    """One place that an input's files come from. Exactly one of the three is set."""

    url: Optional[str] = None
    #: An absolute folder, file or glob on the node's own disk.
    file: Optional[str] = None
    datastore: Optional[str] = None
    #: Path or glob inside the datastore.
    path: str = ""
    #: Must the datastore's files be asked of the server, wherever this node is?
    is_remote: bool = False
    #: The folder of a datastore that its owner registered on this machine; None: the server's own for it.
    root: Optional[str] = None


@record
class DatasetSpec:
    """A dataset as asked: references only, no bytes. With a name it is registered."""

    sources: Tuple[Source, ...]
    #: 'file' or 'tabular'; the first step of a table says how its files are read.
    kind: str = "file"
    name: Optional[str] = None
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    create_new_version: bool = False
    #: Which of the sources' files or rows are in it; none: all.
    steps: Tuple[Step, ...] = ()
    #: What its sources hold now, as whoever registers it has found; None: not known.
    totals: Optional[Totals] = None


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
    steps: Tuple[Step, ...] = ()

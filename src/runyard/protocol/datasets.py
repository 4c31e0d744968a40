"""A dataset: as asked (DatasetSpec), and as stored (Dataset)."""

from dataclasses import field
from typing import Dict, Optional, Tuple

from runyard.protocol.plan import Source
from runyard.protocol.record import record
from runyard.protocol.selection import Step


@record
class DatasetSpec:
    """A dataset as asked: references only, no bytes. With a name it is registered."""

    sources: Tuple[Source, ...]
    kind: str = "file"
    name: Optional[str] = None
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    create_new_version: bool = False
    #: Which of the sources' files are in it; none: all.
    steps: Tuple[Step, ...] = ()


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

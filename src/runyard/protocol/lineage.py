"""Which run read or made which dataset, and what the web held when it did."""

from typing import Optional, Tuple

from runyard.protocol.record import record


class Direction:
    """Which way the data went."""

    INPUT = "input"
    OUTPUT = "output"


@record
class DatasetUse:
    """A dataset that a run read or made."""

    run_id: str
    dataset_id: str
    direction: str
    #: The input's or output's name in the run.
    name: str
    #: When it was submitted with that input, or had made that output.
    at: int


@record
class SeenFile:
    """A file of the web as a run found it."""

    url: str
    size_bytes: int
    sha256: str


#: Most files whose paths are kept with a dataset's totals.
NAMES_MAX = 1_000


@record
class Totals:
    """How much a dataset's sources hold, before its steps."""

    count: int
    #: None: not all of the sizes are known.
    size_bytes: Optional[int] = None
    #: The files' paths below the mount; none where there are more than NAMES_MAX.
    names: Tuple[str, ...] = ()


@record
class SeenFiles:
    """All that a run has fetched of one dataset, or what it has found of it."""

    files: Tuple[SeenFile, ...] = ()
    totals: Optional[Totals] = None


@record
class Sentences:
    """What a person should know of it."""

    sentences: Tuple[str, ...]

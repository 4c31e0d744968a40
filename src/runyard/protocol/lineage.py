"""Which run read or made which dataset."""

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

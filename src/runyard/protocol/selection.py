"""Which files or rows of a dataset are taken: steps that are stored with it, and give the same everywhere. Pure."""

import hashlib
from typing import List, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.record import record
from runyard.protocol.tables import Reader, Term, check_columns, check_filter, check_reader


class StepKind:
    """What a step does to the files, which are ordered by source and path, or to the rows of a table."""

    TAKE = "take"
    SKIP = "skip"
    #: By chance, each file for itself.
    SAMPLE = "sample"
    #: What the sample of the same seed leaves.
    REST = "rest"
    #: Of tables only; the first step of each of them: how its files are read.
    READ = "read"
    FILTER = "filter"
    KEEP = "keep"
    DROP = "drop"
    #: Names the columns of the rows' time, and of their files'; changes no row.
    TIMESTAMPS = "timestamps"


@record
class Step:
    """One step. Steps are carried out in their order, each on what the one before it left."""

    kind: str
    #: take, skip: how many files or rows.
    count: int = 0
    #: sample, rest: how likely a file or row is in the sample, 0 to 1.
    probability: float = 0.0
    seed: int = 0
    #: read.
    reader: Optional[Reader] = None
    #: filter: the condition, in postfix order.
    terms: Optional[Tuple[Term, ...]] = None
    #: keep, drop; timestamps: the row's and the file's column, '' for none.
    columns: Optional[Tuple[str, ...]] = None


_OF_FILES = (StepKind.TAKE, StepKind.SKIP, StepKind.SAMPLE, StepKind.REST)
_OF_COLUMNS = (StepKind.KEEP, StepKind.DROP, StepKind.TIMESTAMPS)


def check_steps(steps: Sequence[Step], kind: str = "file") -> None:
    """UserErrorException for a step that cannot be one of a dataset of this kind."""
    if kind not in ("file", "tabular"):
        raise UserErrorException(f"A dataset is of files or tabular, not {kind[:40]!r}.")
    if kind == "tabular":
        if not steps or steps[0].kind != StepKind.READ:
            raise UserErrorException("The first step of a table says how its files are read.")
        check_reader(steps[0].reader)
        steps = steps[1:]
    for one in steps:
        if one.kind not in _OF_FILES:
            if kind == "file" or one.kind not in (StepKind.FILTER, *_OF_COLUMNS):
                raise UserErrorException(f"{one.kind[:40]!r} is no such step of a dataset.")
            _check_table_step(one)
        if one.count < 0:
            raise UserErrorException(f"A dataset cannot take or skip {one.count} {_ITEMS[kind]}.")
        if not 0 <= one.probability <= 1:
            raise UserErrorException(f"A share of a dataset lies between 0 and 1, not at {one.probability}.")


_ITEMS = {"file": "files", "tabular": "rows"}


def _check_table_step(step: Step) -> None:
    if step.kind == StepKind.FILTER:
        check_filter(step.terms or ())
        return
    check_columns(step.columns or ())
    if step.kind == StepKind.TIMESTAMPS and len(step.columns or ()) != 2:
        raise UserErrorException("A table's timestamps are two columns, either of which may be empty.")


def select(paths: Sequence[str], steps: Sequence[Step]) -> List[int]:
    """Places in ``paths`` of the files that are left after all steps, in order."""
    kept = list(range(len(paths)))
    for step in steps:
        if step.kind == StepKind.TAKE:
            kept = kept[: step.count]
        elif step.kind == StepKind.SKIP:
            kept = kept[step.count :]
        else:
            is_rest = step.kind == StepKind.REST
            kept = [place for place in kept if _is_drawn(paths[place], step) != is_rest]
    return kept


def split(probability: float, seed: int) -> Tuple[Step, Step]:
    """The two steps that part a dataset: every file is in exactly one of the parts."""
    return Step(StepKind.SAMPLE, 0, probability, seed), Step(StepKind.REST, 0, probability, seed)


def _is_drawn(path: str, step: Step) -> bool:
    """By the file's own name and the seed, so that a file which comes later moves no other."""
    digest = hashlib.sha256(f"{step.seed}:{path}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < step.probability * 2**64

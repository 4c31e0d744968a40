"""Which files of a dataset are taken: steps that are stored with it, and give the same files everywhere. Pure."""

import hashlib
from typing import List, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.record import record


class StepKind:
    """What a step does to the files, which are ordered by source and path."""

    TAKE = "take"
    SKIP = "skip"
    #: By chance, each file for itself.
    SAMPLE = "sample"
    #: What the sample of the same seed leaves.
    REST = "rest"


@record
class Step:
    """One step. Steps are carried out in their order, each on what the one before it left."""

    kind: str
    #: take, skip: how many files.
    count: int = 0
    #: sample, rest: how likely a file is in the sample, 0 to 1.
    probability: float = 0.0
    seed: int = 0


def check_steps(steps: Sequence[Step]) -> None:
    """UserErrorException for a step that cannot be."""
    for one in steps:
        if one.kind not in (StepKind.TAKE, StepKind.SKIP, StepKind.SAMPLE, StepKind.REST):
            raise UserErrorException(f"{one.kind[:40]!r} is no step of a dataset.")
        if one.count < 0:
            raise UserErrorException(f"A dataset cannot take or skip {one.count} files.")
        if not 0 <= one.probability <= 1:
            raise UserErrorException(f"A share of a dataset lies between 0 and 1, not at {one.probability}.")


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

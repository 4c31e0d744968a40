"""A table's steps carried out on its blocks, one after the other; rows are drawn by their place in their file."""

import hashlib
import random
from bisect import bisect_left
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence

from runyard.errors import UserErrorException
from runyard.protocol.selection import Step, StepKind
from runyard.protocol.tables import Reader, columns_of
from runyard.sdk.tabular_engine import arrow, arrow_parts
from runyard.sdk.tabular_filter import mask_of

#: Rows whose draw is made from one seed: later ones of a file need not draw for those before them.
DRAW_ROWS = 65_536


def reader_of(steps: Sequence[Step]) -> Reader:
    """How the files are read."""
    found = steps[0].reader if steps else None
    if found is None:
        raise UserErrorException("This dataset is no table: it does not say how its files are read.")
    return found


def is_wanted(name: str, steps: Sequence[Step]) -> bool:
    """Does the column stay to the end, or does a filter look at it before it goes?"""
    for step in steps:
        if step.kind == StepKind.FILTER and name in columns_of(step.terms or ()):
            return True
        if step.kind == StepKind.KEEP and name not in (step.columns or ()):
            return False
        if step.kind == StepKind.DROP and name in (step.columns or ()):
            return False
    return True


def early_filters(steps: Sequence[Step]) -> List[Step]:
    """The filters that rows may be left out by before they are counted: those before the first take or skip."""
    found = []
    for step in steps:
        if step.kind in (StepKind.TAKE, StepKind.SKIP):
            break
        if step.kind == StepKind.FILTER:
            found.append(step)
    return found


def check_steps_names(steps: Sequence[Step], there: Sequence[str]) -> None:
    """UserErrorException for a step that names a column which is not there, or not any more."""
    left = list(there)
    for step in steps:
        if step.kind == StepKind.FILTER:
            check_named("filter", columns_of(step.terms or ()), left)
        elif step.columns:
            check_named(_WORDS[step.kind], [name for name in step.columns if name], left)
        left = final_order(left, [step])


def check_named(step: str, names: Sequence[str], there: Sequence[str]) -> None:
    """UserErrorException for a name that is not there."""
    missing = set(names) - set(there)
    if missing:
        shown = ", ".join(map(repr, list(there)[:20])) or "none"
        raise UserErrorException(f"{step} names the column {min(missing)!r}, which is not there; there are {shown}.")


_WORDS = {
    StepKind.KEEP: "keep_columns",
    StepKind.DROP: "drop_columns",
    StepKind.TIMESTAMPS: "with_timestamp_columns",
}


class Rows:
    """Rows on their way through the steps."""

    def __init__(self, file: str, columns: Dict[str, Any], first_row: int, count: int) -> None:
        #: Does a step ask for the rows' places?
        self.are_placed = False
        #: The file's path below the mount.
        self.file = file
        self.columns = columns
        self.count = count
        #: The rows' places in their file: from a first one on, until some are left out.
        self.first_row = first_row
        self.places: Optional[List[int]] = None

    def where(self, mask: Any) -> None:
        """Keep the rows that the mask says."""
        _, pc = arrow_parts()
        kept = pc.sum(mask).as_py() or 0
        if kept == self.count:
            return
        self._place(lambda places: [place for place, stays in zip(places, mask.to_pylist()) if stays])
        self.columns = {name: values.filter(mask) for name, values in self.columns.items()}
        self.count = kept

    def slice(self, start: int, count: int) -> None:
        """Keep ``count`` rows from ``start`` on."""
        if start == 0 and count >= self.count:
            return
        self._place(lambda places: places[start : start + count])
        self.columns = {name: values.slice(start, count) for name, values in self.columns.items()}
        self.count = max(0, min(count, self.count - start))

    def _place(self, change: Any) -> None:
        if not self.are_placed:
            return
        places = self.places if self.places is not None else range(self.first_row, self.first_row + self.count)
        self.places = list(change(places))


class Steps:
    """The steps of one reading; each counts its own rows."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = [(number, step) for number, step in enumerate(steps) if step.kind != StepKind.READ]
        self._left = {number: step.count for number, step in self._steps}

    def is_done(self) -> bool:
        """Has a step taken all that it takes?"""
        return any(step.kind == StepKind.TAKE and not self._left[number] for number, step in self._steps)

    def carry_out(self, rows: Rows) -> None:
        """All steps on some rows."""
        draws = [number for number, step in self._steps if step.kind in (StepKind.SAMPLE, StepKind.REST)]
        for number, step in self._steps:
            rows.are_placed = bool(draws) and draws[-1] > number
            if step.kind == StepKind.TAKE:
                rows.slice(0, self._left[number])
                self._left[number] -= rows.count
            elif step.kind == StepKind.SKIP:
                skipped = min(rows.count, self._left[number])
                rows.slice(skipped, rows.count - skipped)
                self._left[number] -= skipped
            elif step.kind in (StepKind.SAMPLE, StepKind.REST):
                _draw(rows, number, step)
            elif step.kind == StepKind.FILTER:
                rows.where(mask_of(step.terms or (), rows.columns, rows.count))
            elif step.kind == StepKind.KEEP:
                rows.columns = {name: rows.columns[name] for name in step.columns or () if name in rows.columns}
            elif step.kind == StepKind.DROP:
                rows.columns = {one: values for one, values in rows.columns.items() if one not in (step.columns or ())}


def final_order(names: Sequence[str], steps: Sequence[Step]) -> List[str]:
    """The columns that are left of ``names``, in their order."""
    left = list(names)
    for step in steps:
        if step.kind == StepKind.KEEP:
            left = [name for name in step.columns or () if name in left]
        elif step.kind == StepKind.DROP:
            left = [name for name in left if name not in (step.columns or ())]
    return left


def _draw(rows: Rows, number: int, step: Step) -> None:
    """By the file, the row's place in it, the seed and the step's own number: the same rows wherever it is read."""
    pa = arrow()
    places = rows.places if rows.places is not None else range(rows.first_row, rows.first_row + rows.count)
    mask: List[bool] = []
    start = 0
    while start < len(places):
        chunk = places[start] // DRAW_ROWS
        end = bisect_left(places, (chunk + 1) * DRAW_ROWS, start)
        drawn = _drawn(f"{step.seed}:{number}:{chunk}:{rows.file}", step.probability)
        base = chunk * DRAW_ROWS
        if isinstance(places, range):
            mask.extend(drawn[places[start] - base : places[end - 1] - base + 1])
        else:
            mask.extend([drawn[place - base] for place in places[start:end]])
        start = end
    chosen = pa.array(mask, pa.bool_())
    rows.where(chosen if step.kind == StepKind.SAMPLE else arrow_parts()[1].invert(chosen))


@lru_cache(maxsize=4)
def _drawn(key: str, probability: float) -> List[bool]:
    seed = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    # Python promises the same numbers for a whole number as seed, whatever its version.
    chance = random.Random(int.from_bytes(seed, "big")).random
    return [chance() < probability for _ in range(DRAW_ROWS)]

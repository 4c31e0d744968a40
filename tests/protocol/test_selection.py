"""Which files a dataset's steps leave: the same everywhere, and every file in one part of a split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.errors import UserErrorException
from runyard.protocol.selection import Step, StepKind, check_steps, select, split

PATHS = [f"folder/{number:04}.png" for number in range(1000)]


def test_steps_are_carried_out_in_their_order() -> None:
    assert select(PATHS, [Step(StepKind.SKIP, 10), Step(StepKind.TAKE, 3)]) == [10, 11, 12]
    assert select(PATHS, [Step(StepKind.TAKE, 3), Step(StepKind.SKIP, 2)]) == [2]
    assert select(PATHS, [Step(StepKind.TAKE, 5000)]) == list(range(1000))
    assert select(PATHS, []) == list(range(1000))
    assert select([], [Step(StepKind.TAKE, 3)]) == []


def test_draw_is_the_one_of_every_version() -> None:
    """A dataset that was registered long ago gives the files that it gave then."""
    drawn = select(PATHS, [Step(StepKind.SAMPLE, 0, 0.01, 7)])
    assert drawn == [39, 68, 295, 351, 375, 629, 740, 771, 924, 956]


@given(st.floats(0, 1), st.integers(0, 2**31), st.lists(st.text(min_size=1), unique=True, max_size=40))
def test_each_file_is_in_exactly_one_part_of_a_split(probability: float, seed: int, paths: list[str]) -> None:
    first, second = (select(paths, [one]) for one in split(probability, seed))
    assert sorted(first + second) == list(range(len(paths)))


def test_share_is_about_what_was_asked_for() -> None:
    assert 700 <= len(select(PATHS, [Step(StepKind.SAMPLE, 0, 0.75, 1)])) <= 800
    assert select(PATHS, [Step(StepKind.SAMPLE, 0, 1.0, 1)]) == list(range(1000))
    assert select(PATHS, [Step(StepKind.SAMPLE, 0, 0.0, 1)]) == []


def test_file_that_comes_later_moves_no_other() -> None:
    step = Step(StepKind.SAMPLE, 0, 0.5, 3)
    before = [PATHS[place] for place in select(PATHS, [step])]
    more = ["another.png", *PATHS]
    assert [more[place] for place in select(more, [step]) if more[place] != "another.png"] == before


@pytest.mark.parametrize("step", [Step("shuffle"), Step(StepKind.TAKE, -1), Step(StepKind.SAMPLE, 0, 1.5)])
def test_step_that_cannot_be_is_refused(step: Step) -> None:
    with pytest.raises(UserErrorException):
        check_steps([step])

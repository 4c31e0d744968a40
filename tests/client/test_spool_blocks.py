"""A spool read in blocks is the spool read record by record, whatever is mixed in it and wherever it is damaged."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.client.spool import SpoolWriter
from runyard.protocol import spools
from runyard.protocol.metrics import HEADER, SCALAR_RECORD_BYTES, SPOOL_MAGIC, iterate
from runyard.protocol.spools import BLOCK_RECORDS, SpoolState, read_spool

#: What a training logs, in runs of some length: (name, value) again and again.
RUNS = st.lists(
    st.tuples(
        st.lists(
            st.sampled_from(
                [("loss", 0.5), ("accuracy", float("inf")), ("epoch", 3), ("note", "text"), ("rows", [1, 2])]
            ),
            min_size=1,
            max_size=4,
        ),
        st.integers(1, 3 * BLOCK_RECORDS),
    ),
    min_size=1,
    max_size=4,
)


def _logged(folder: Path, values: list[tuple[str, Any]]) -> bytes:
    writer = SpoolWriter(str(folder))
    for step, (name, value) in enumerate(values):
        writer.log(name, value, step=step)
    path = folder / (writer.writer + ".spool")
    writer.close()
    data = path.read_bytes()
    path.unlink()
    return data


def _read(data: bytes, piece: int) -> tuple[list[Any], SpoolState]:
    """Every value in order of its step, read in pieces of that many bytes."""
    state, found = SpoolState(), []
    while True:
        before = state.offset
        for one in read_spool(data[before : before + piece], state, "w"):
            found += [(step, one.key, time_us, value) for step, time_us, value in iterate(one)]
        if state.offset == before or state.is_torn:
            return found, state


@settings(max_examples=60, deadline=None)
@given(runs=RUNS, piece=st.integers(2_000, 50_000))
def test_blocks_hold_what_single_records_hold(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[list[tuple[str, Any]], int]], piece: int
) -> None:
    values = [one for pattern, times in runs for one in pattern * times]
    data = _logged(tmp_path_factory.mktemp("spool"), values)
    found, state = _read(data, piece)
    assert not state.is_torn
    assert (state.offset, state.sequence) == (len(data), len(values))
    assert sorted((step, name, value) for step, name, _, value in found if not isinstance(value, list)) == [
        (step, name, value) for step, (name, value) in enumerate(values) if not isinstance(value, list)
    ]
    alone, _ = _read_singly(data)
    assert sorted(found, key=lambda one: one[0]) == sorted(alone, key=lambda one: one[0])


def _read_singly(data: bytes) -> tuple[list[Any], SpoolState]:
    """The same, a record at a time: no piece is long enough for a block."""
    return _read(data, (BLOCK_RECORDS - 1) * SCALAR_RECORD_BYTES)


@pytest.mark.parametrize("count", [BLOCK_RECORDS, BLOCK_RECORDS + 1, 1_000, 1_001])
def test_one_flipped_bit_anywhere_in_a_block_is_found_at_its_record(tmp_path: Path, count: int) -> None:
    data = _logged(tmp_path, [("loss", float(number)) for number in range(count)])
    start = len(data) - count * SCALAR_RECORD_BYTES
    rolls = random.Random(count)
    for _ in range(60):
        at = rolls.randrange(start, len(data))
        damaged = bytearray(data)
        damaged[at] ^= 1 << rolls.randrange(8)
        _, state = _read(bytes(damaged), len(data))
        whole = (at - start) // SCALAR_RECORD_BYTES
        # A length that grew makes the record seem incomplete: nothing of it, or after it, is read either.
        assert (state.sequence, state.offset) == (whole, start + whole * SCALAR_RECORD_BYTES)


def test_two_damages_that_cancel_each_other_in_the_sum_of_bits_are_two_forged_records(tmp_path: Path) -> None:
    """The check of a block cannot tell this from a sound one; only somebody who wants to can make it."""
    data = bytearray(_logged(tmp_path, [("loss", float(number)) for number in range(101)]))
    start = len(data) - 101 * SCALAR_RECORD_BYTES
    assert spools._is_sound(bytes(data[start:]), 101)
    data[start + HEADER.size + 20] ^= 1
    assert not spools._is_sound(bytes(data[start:]), 101)
    data[start + SCALAR_RECORD_BYTES + HEADER.size + 20] ^= 1
    assert spools._is_sound(bytes(data[start:]), 101)


def test_a_spool_of_noise_is_read_up_to_its_magic(tmp_path: Path) -> None:
    noise = random.Random(7).randbytes(100_000)
    _, state = _read(SPOOL_MAGIC + noise, 1 << 20)
    assert state.sequence == 0
    assert state.offset == len(SPOOL_MAGIC)

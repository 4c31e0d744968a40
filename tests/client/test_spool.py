"""What a job logs is what a runner reads: the spool's writer beside its reader, in every odd case."""

import contextlib
import inspect
import math
import os
import resource
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runyard.client import spool
from runyard.client.spool import SpoolWriter
from runyard.errors import UserErrorException
from runyard.protocol import metrics
from runyard.protocol.metrics import iterate
from runyard.protocol.spools import SpoolState, read_spool


def _read(folder: Path, writer: str | None = None) -> dict[str, list[tuple[int | None, Any]]]:
    """(step, value) of each metric in all spools of the folder."""
    found: dict[str, list[tuple[int | None, Any]]] = {}
    for path in sorted(folder.glob("*.spool")):
        if writer is None or path.stem == writer:
            for columns in read_spool(path.read_bytes(), SpoolState(), path.stem):
                found.setdefault(columns.key, []).extend((step, value) for step, _, value in iterate(columns))
    return found


def test_constants_are_those_of_the_protocol() -> None:
    assert spool._MAGIC == metrics.SPOOL_MAGIC
    assert spool._NO_STEP == metrics.NO_STEP
    kinds = (spool._KEY_KIND, spool._SCALAR_KIND, spool._TEXT_KIND, spool._INTEGER_KIND)
    assert kinds == (metrics.KIND_KEY, metrics.KIND_SCALAR, metrics.KIND_TEXT, metrics.KIND_INTEGER)
    limits = (spool.KEY_BYTES_MAX, spool.TEXT_BYTES_MAX, spool.KEYS_MAX)
    assert limits == (metrics.MAX_KEY_BYTES, metrics.MAX_TEXT_BYTES, metrics.MAX_KEYS)
    source = inspect.getsource(spool)
    for layout in (metrics.HEADER, metrics.SCALAR, metrics.TEXT, metrics.KEY):
        assert f'struct.Struct("{layout.format}")' in source


class Scalar:
    """What numpy's and torch's scalars look like from outside."""

    size = 1

    def __init__(self, value: Any) -> None:
        self._value = value

    def item(self) -> Any:
        return self._value


class Array:
    """An array of several values."""

    size = 3

    def tolist(self) -> list[float]:
        return [1.0, 2.0, 3.0]


class Tensor:
    """TensorFlow's: it becomes numpy's first."""

    def numpy(self) -> Scalar:
        return Scalar(2.5)


VALUES = [
    (0.1, 0.1), (-0.0, -0.0), (math.inf, math.inf), (5e-324, 5e-324), (3, 3), (-(1 << 53), -(1 << 53)),
    ((1 << 53) + 1, (1 << 53) + 1), ((1 << 63) - 1, (1 << 63) - 1), (True, True), ("text", "text"), (None, None),
    ([1, 2.5, "x"], [1, 2.5, "x"]), ({"a": [1]}, {"a": [1]}), (Scalar(0.25), 0.25), (Scalar(7), 7),
    (Scalar(True), True),
    (Array(), [1.0, 2.0, 3.0]), (Tensor(), 2.5), ("žluť 数字 🧨", "žluť 数字 🧨"),
]  # fmt: skip


@pytest.mark.parametrize(("given_", "read"), VALUES, ids=lambda one: repr(one)[:30])
def test_value_comes_back_as_it_was_logged(tmp_path: Path, given_: Any, read: Any) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.log("m", given_)
    writer.log("m", given_, step=7)
    writer.close()
    (_, first), (step, second) = _read(tmp_path)["m"]
    assert (first, second, step) == (read, read, 7)
    assert type(first) is type(read)


def test_nan_comes_back_as_nan(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.log("m", math.nan)
    writer.close()
    assert math.isnan(_read(tmp_path)["m"][0][1])


@pytest.mark.parametrize(
    ("name", "value", "step"),
    [
        ("m", object(), None), ("m", 1 << 63, None), ("m", "x" * (1 << 20), None), ("m", 1.0, "x"), ("m", 1.0, 1 << 63),
        ("", 1.0, None), ("x" * 1025, 1.0, None), ("a\0b", 1.0, None), (7, 1.0, None), ("m", {1, 2}, None),
        ("m", float("nan").__class__, None),
    ],
    ids=lambda one: repr(one)[:20],
)  # fmt: skip
def test_what_cannot_be_logged_is_refused_and_leaves_no_trace(tmp_path: Path, name: Any, value: Any, step: Any) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.log("before", 1.0)
    with pytest.raises(UserErrorException):
        writer.log(name, value, step=step)
    writer.log("after", 2.0)
    writer.close()
    found = _read(tmp_path)
    assert {key: values for key, values in found.items() if values} == {"before": [(None, 1.0)], "after": [(None, 2.0)]}


def test_fork_writes_a_file_of_its_own(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    writer.log("m", 1.0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            writer.log("m", 2.0)
            writer.log("n", 3.0)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    writer.log("m", 4.0)
    mine = writer.writer
    writer.close()
    assert len(list(tmp_path.glob("*.spool"))) == 2
    assert _read(tmp_path, mine) == {"m": [(None, 1.0), (None, 4.0)]}
    assert sorted(value for _, value in _read(tmp_path)["m"]) == [1.0, 2.0, 4.0]
    assert _read(tmp_path)["n"] == [(None, 3.0)]


def test_threads_share_one_file_and_lose_nothing(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    start = threading.Barrier(8)

    def log(number: int) -> None:
        start.wait()
        for i in range(500):
            writer.log(f"m{(number + i) % 5}", float(number * 500 + i))

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    writer.close()
    (path,) = tmp_path.glob("*.spool")
    state = SpoolState()
    columns = read_spool(path.read_bytes(), state, path.stem)
    values = [value for one in columns for _, _, value in iterate(one)]
    assert sorted(values) == [float(i) for i in range(4_000)]
    assert (state.sequence, state.is_torn, state.offset) == (4_000, False, writer.sizes()[path.stem])
    assert not [key for key in (state.keys or {}).values() if not key.startswith("m")]


def test_torn_tail_is_left_until_it_is_whole(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    for i in range(3):
        writer.log("m", float(i))
    writer.close()
    (path,) = tmp_path.glob("*.spool")
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        state = SpoolState()
        first = read_spool(whole[:cut], state, "w")
        rest = read_spool(whole[state.offset :], state, "w")
        values = [value for one in [*first, *rest] for _, _, value in iterate(one)]
        assert (values, state.is_torn, state.offset) == ([0.0, 1.0, 2.0], False, len(whole)), cut


def test_damage_ends_the_reading_and_keeps_what_came_before(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    for i in range(3):
        writer.log("m", float(i))
    writer.close()
    (path,) = tmp_path.glob("*.spool")
    whole = bytearray(path.read_bytes())
    whole[-metrics.SCALAR_RECORD_BYTES - 1] ^= 1
    state = SpoolState()
    (columns,) = read_spool(bytes(whole), state, "w")
    assert [value for _, _, value in iterate(columns)] == [0.0]
    assert state.is_torn


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_no_damage_at_all_makes_the_reader_fail_or_invent(tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    path = tmp_path / "whole"
    if not path.exists():
        writer = SpoolWriter(str(tmp_path))
        for i in range(20):
            writer.log("m", float(i), step=i)
            writer.log("t", [i])
        writer.close()
        (made,) = tmp_path.glob("*.spool")
        made.rename(path)
    whole = bytearray(path.read_bytes())
    for position, byte in damage:
        whole[position % len(whole)] = byte
    for columns in read_spool(bytes(whole), SpoolState(), "w"):
        assert columns.key in ("m", "t")
        for step, _, value in iterate(columns):
            assert value == float(step or 0) if columns.key == "m" else value in [[i] for i in range(20)]


def test_records_longer_than_any_are_damage_and_not_memory() -> None:
    state = SpoolState()
    read_spool(metrics.SPOOL_MAGIC + struct.pack("<II", 0xFFFFFFFF, 0), state, "w")
    assert state.is_torn


def test_full_disk_loses_values_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own, since the limit of a file's size is a process's."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _log_into_a_full_disk(tmp_path)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = []
    for path in tmp_path.glob("*.spool"):
        state = SpoolState()
        found += [value for one in read_spool(path.read_bytes(), state, path.stem) for _, _, value in iterate(one)]
        assert not state.is_torn
    lost = {float(i) for i in range(100)} - set(found)
    assert len(found) == len(set(found))
    assert 77.5 in found
    assert 0 < len(lost) <= len(list(tmp_path.glob("*.spool")))


def _log_into_a_full_disk(folder: Path) -> int:
    """Files end in the middle of a record, as on a full disk; the value that did not fit is lost, and it is said."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_010, resource.RLIM_INFINITY))
    writer = SpoolWriter(str(folder))
    for i in range(100):
        writer.log("m", float(i))
    if not writer.failure:
        return 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    writer.log("m", 77.5)
    whole = {path.stem: _whole_bytes(path) for path in folder.glob("*.spool")}
    return 0 if writer.sizes() == whole else 3


def _whole_bytes(path: Path) -> int:
    state = SpoolState()
    read_spool(path.read_bytes(), state, path.stem)
    return state.offset


def test_file_that_is_ended_while_another_thread_logs_gets_no_foreign_bytes(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path))
    stop = threading.Event()

    def log() -> None:
        while not stop.is_set():
            writer.log("m", 1.0)

    threads = [threading.Thread(target=log) for _ in range(3)]
    for one in threads:
        one.start()
    with contextlib.ExitStack() as victims:
        for number in range(200):
            writer.close()
            victims.enter_context(open(tmp_path / f"victim{number}", "wb"))
        stop.set()
        for one in threads:
            one.join()
    assert all((tmp_path / f"victim{number}").read_bytes() == b"" for number in range(200))
    assert all(_whole_bytes(path) == path.stat().st_size for path in tmp_path.glob("*.spool"))


def test_folder_that_is_gone_does_not_fail_the_training(tmp_path: Path) -> None:
    writer = SpoolWriter(str(tmp_path / "gone"))
    writer.log("m", 1.0)
    assert writer.failure
    (tmp_path / "gone").mkdir()
    writer.log("m", 2.0)
    writer.close()
    assert _read(tmp_path / "gone") == {"m": [(None, 2.0)]}

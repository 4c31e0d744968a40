"""What nodes keep: bounded by what was not used for longest, and never what a run that lives may need."""

import fcntl
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runyard.environments.pythons import running_minor
from runyard.environments.realise import environment_folder, hold, is_realised, realise, size_of
from runyard.environments.uv import find_uv
from runyard.protocol.environments import Builder, Lock, lock_digest
from runyard.runner.tidy import EVERY_S, LOG_KEPT_S, MARKED_S, UNFINISHED_KEPT_S, limit_bytes, read_kept, tidy_node
from tests.environments.packages import source_of
from tests.environments.test_layers import whole_wheel

#: A node's clock, long after everything on its disk was made.
NOW = time.time() + 100 * 86_400
MIB = 1 << 20


def quiet(_line: str) -> None:
    """Nobody looks at the runner's log."""


@pytest.fixture(scope="module")
def locks(tmp_path_factory: pytest.TempPathFactory) -> list[Lock]:
    folder, found = tmp_path_factory.mktemp("index"), []
    for name in ("one", "two", "three"):
        whole_wheel(folder, name, {f"{name}.py": "", f"{name}.txt": "x" * MIB})
        lock = Lock("", python=running_minor(), requirements=(f"{name}==1.0",), options=source_of(folder))
        found.append(replace(lock, digest=lock_digest(lock)))
    return found


@pytest.fixture
def root(tmp_path: Path, locks: list[Lock], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's folder with three environments, the first of which was used longest ago."""
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    for number, lock in enumerate(locks):
        realise(lock, str(tmp_path / "node"), uv=find_uv(), log=quiet)
        os.utime(Path(environment_folder(lock, str(tmp_path / "node")), "runyard-ready"), (number, number))
    return tmp_path / "node"


def there(root: Path, locks: list[Lock]) -> list[bool]:
    return [is_realised(one, str(root)) for one in locks]


def tidy(root: Path, keep_bytes: float, monkeypatch: pytest.MonkeyPatch, now: float = NOW) -> None:
    monkeypatch.setenv("RUNYARD_NODE_KEEP_GIB", repr(keep_bytes / (1 << 30)))
    tidy_node(root, quiet, now, root / "logs")


def test_environments_beyond_the_bound_go_the_longest_unused_first(
    root: Path, locks: list[Lock], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = size_of(environment_folder(locks[0], str(root)))
    tidy(root, 3.5 * size, monkeypatch)
    assert there(root, locks) == [True, True, True]
    tidy(root, 2.5 * size, monkeypatch, NOW + 1)
    assert there(root, locks) == [True, True, True], "within the hour nobody looks again"
    tidy(root, 2.5 * size, monkeypatch, NOW + EVERY_S)
    assert there(root, locks) == [False, True, True]
    kept = read_kept(root)
    assert kept["removed"] == [locks[0].digest]
    assert size < kept["environments_bytes"] < 2.5 * size
    assert kept["limit_bytes"] == int(2.5 * size)


def test_environment_that_a_run_holds_stays(root: Path, locks: list[Lock], monkeypatch: pytest.MonkeyPatch) -> None:
    held = hold(locks[0], str(root))
    assert held is not None
    tidy(root, 0, monkeypatch)
    assert there(root, locks) == [True, False, False]
    os.close(held)
    tidy(root, 0, monkeypatch, NOW + EVERY_S)
    assert there(root, locks) == [False, False, False]
    assert hold(replace(locks[0], builder=Builder.USER_MANAGED), str(root)) is None


def test_what_uv_alone_still_has_goes_with_its_environments(
    root: Path, locks: list[Lock], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = root / "caches" / "uv"
    assert list(cache.rglob("one.txt"))
    tidy(root, 10 * MIB, monkeypatch)
    assert list(cache.rglob("one.txt")), "the environments have it too"
    tidy(root, MIB / 2, monkeypatch, NOW + EVERY_S)
    assert not list(cache.rglob("one.txt"))
    assert not list((root / "caches" / "layers").rglob("one.txt"))


def test_versions_that_no_living_attempt_has_begun_with_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, begun_at = tmp_path / "node", NOW - 20 * 86_400
    for name in ("runners", "kits"):
        for number, used_at in enumerate((begun_at - 2 * MARKED_S, begun_at + 1, NOW - 5, NOW - 2, NOW - 1)):
            path = root / name / f"{name}-{number}"
            path.mkdir(parents=True)
            os.utime(path, (used_at, used_at))
        for left, age_s in ((".making-new", 60), (".making-old", UNFINISHED_KEPT_S + 60)):
            (root / name / left).mkdir()
            os.utime(root / name / left, (NOW - age_s, NOW - age_s))
    launch = root / "runs-1" / "long" / "1" / "launch.json"
    launch.parent.mkdir(parents=True)
    launch.touch()
    os.utime(launch, (begun_at, begun_at))
    (root / "logs").mkdir()
    tidy(root, MIB, monkeypatch)
    assert sorted(one.name for one in (root / "runners").iterdir()) == [
        ".making-new", "runners-1", "runners-2", "runners-3", "runners-4",
    ]  # fmt: skip
    launch.unlink()
    tidy(root, MIB, monkeypatch, NOW + EVERY_S + MARKED_S)
    assert sorted(one.name for one in (root / "kits").iterdir()) == [".making-new", "kits-3", "kits-4"]


def test_old_logs_of_engines_go_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "node"
    (root / "logs").mkdir(parents=True)
    for name, age_s in (("runyard-slurm-1", LOG_KEPT_S + 60), ("runyard-ray-a", LOG_KEPT_S + 60),
                        ("runyard-slurm-2", LOG_KEPT_S - 60), ("theirs", LOG_KEPT_S + 60)):  # fmt: skip
        path = root / "logs" / f"{name}.log"
        path.touch()
        os.utime(path, (NOW - age_s, NOW - age_s))
    tidy(root, MIB, monkeypatch)
    assert sorted(one.name for one in (root / "logs").iterdir()) == ["runyard-slurm-2.log", "theirs.log"]


def test_one_of_several_processes_tidies_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "tidy.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tidy(tmp_path, MIB, monkeypatch)
        assert read_kept(tmp_path) == {}
    tidy(tmp_path, MIB, monkeypatch)
    assert read_kept(tmp_path)["at"] == NOW
    (tmp_path / "kept.json").write_text(json.dumps([1]))
    assert read_kept(tmp_path) == {}


def test_bound_is_what_is_asked_or_a_part_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(tmp_path)
    total = disk.f_frsize * disk.f_blocks
    for asked in ("", "many", "-1", "nan"):
        monkeypatch.setenv("RUNYARD_NODE_KEEP_GIB", asked)
        assert limit_bytes(tmp_path) == int(min(50 << 30, total * 0.1))
    monkeypatch.setenv("RUNYARD_NODE_KEEP_GIB", "1.5")
    assert limit_bytes(tmp_path) == 3 << 29

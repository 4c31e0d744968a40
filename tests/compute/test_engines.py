"""Which engine a target has, and how long it is kept."""

import time
from pathlib import Path

import pytest

from runyard.compute.engines import Engines
from runyard.compute.local import LocalCompute
from runyard.compute.remote import Reach
from runyard.protocol.compute import ClusterSpec, EngineKind, EngineSpec
from runyard.protocol.plan import NodeFacts

ONE = ClusterSpec("one", engine=EngineSpec(EngineKind.SLURM, {"partition": "one"}))
SAME = ClusterSpec("same", engine=EngineSpec(EngineKind.SLURM, {"partition": "one"}))
OTHER = ClusterSpec("other", engine=EngineSpec(EngineKind.SLURM, {"partition": "other"}))


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    compute = LocalCompute(tmp_path / "runs", NodeFacts(str(tmp_path / "cache"), None, None, None, "", "local"))
    keep = lambda text, _place: text  # noqa: E731
    return Engines(compute, Reach(lambda: "", tmp_path, "mark", "trusted", tmp_path / "hosts", keep, keep))


def test_targets_of_the_same_settings_share_an_engine(engines: Engines) -> None:
    assert engines.of(None) is engines.of(ClusterSpec("plain")) is engines.local
    assert engines.of(ONE) is engines.of(SAME)
    assert engines.of(ONE) is not engines.of(OTHER)


def test_engine_that_no_target_needs_is_closed_once_it_has_no_attempts(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = engines.of(ONE), engines.of(OTHER)
    closed: list[object] = []
    monkeypatch.setattr(type(one), "close", lambda self: closed.append(self))
    engines.retire([SAME, OTHER], [])
    engines.retire([OTHER], [one])
    assert (engines.of(ONE), engines.of(OTHER)) == (one, other)
    engines.retire([OTHER], [])
    ends_at = time.monotonic() + 10
    while closed != [one]:
        assert time.monotonic() < ends_at
        time.sleep(0.01)
    assert engines.of(ONE) is not one

"""What an attempt's outputs are when they are stored more than once."""

import os
from pathlib import Path

from runyard.client.http import Server
from runyard.protocol.datasets import Source
from runyard.protocol.outputs import OutputMode, OutputPlan
from runyard.protocol.plan import ExitCause, Report, ReportKind
from runyard.runner.destinations import Destinations
from runyard.runner.folder import AttemptFolder
from tests.runner.conftest import MakeAttempt

ENDED = Report(1, 1, ReportKind.EXITED, exit_code=0, cause=ExitCause.SCRIPT)


def _store(folder: AttemptFolder) -> Destinations:
    """As a runner does that knows of no other."""
    found = Destinations(folder, Server(lambda: "http://127.0.0.1:1", "secret"))
    found.store(ENDED)
    return found


def _written(make_attempt: MakeAttempt) -> tuple[AttemptFolder, Path]:
    output = OutputPlan("prepared", OutputMode.UPLOAD, Source(datastore="store", path="fixed"))
    folder = make_attempt(outputs=(output,))
    written = Destinations(folder, Server(lambda: "http://127.0.0.1:1", "secret")).make()
    return folder, Path(written["prepared"])


def test_second_runner_goes_on_behind_the_first(make_attempt: MakeAttempt) -> None:
    folder, written = _written(make_attempt)
    (written / "a").write_text("one")
    assert _store(folder).failures == []
    (written / "b").write_text("two")
    assert _store(folder).failures == []
    (written / "a").write_text("six")
    (failure,) = _store(folder).failures
    assert "'fixed/a' already" in failure


def test_folder_of_a_datastore_that_leads_elsewhere_is_said(make_attempt: MakeAttempt, tmp_path: Path) -> None:
    output = OutputPlan("prepared", OutputMode.MOUNT, Source(datastore="store", path="fixed"))
    folder = make_attempt(outputs=(output,))
    written = Path(Destinations(folder, Server(lambda: "http://127.0.0.1:1", "secret")).make()["prepared"])
    assert _store(folder).failures == []
    os.rmdir(written)
    (gone,) = _store(folder).failures
    assert "'prepared' is gone" in gone
    os.symlink(tmp_path, written)
    (failure,) = _store(folder).failures
    assert "leads out" in failure


def test_folder_that_is_gone_is_said(make_attempt: MakeAttempt) -> None:
    folder, written = _written(make_attempt)
    os.rmdir(written)
    (failure,) = _store(folder).failures
    assert "'prepared' is gone" in failure

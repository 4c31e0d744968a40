"""Runs in a curated environment, as the articles' second generation has them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from runyard.sdk.session import current_server
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

BUILD_LOG = "Streaming azureml-logs/20_image_build_log.txt"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("curated-home")):
        yield Workspace.create("curated", exist_ok=True)


def _phases(workspace: Workspace, run_id: str) -> list[str]:
    found = current_server().call("list_events", workspace=workspace.name, run_id=run_id)
    return list(dict.fromkeys(event.status for event in found))


def test_curated_environment_comes_from_the_cache_the_second_time(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.py").write_text("import sys\nprint('Python', sys.version_info[:2])\n")
    environment = Environment.get(workspace, name="AzureML-Minimal")
    experiment = Experiment(workspace, "curated")
    for is_cached in (False, True):
        run = experiment.submit(ScriptRunConfig(tmp_path, "train.py", environment=environment))
        run.wait_for_completion(show_output=True)
        shown = capsys.readouterr().out
        assert "Python (3, " in shown
        assert (BUILD_LOG in shown) != is_cached
        assert _phases(workspace, run.id) == ["Starting", "Preparing", "Queued", "Running", "Finalizing", "Completed"]

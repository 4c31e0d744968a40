"""What a run can rely on, whichever engine carries it out: the same tests against each."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.engines import Engine, make_engine
from tests.own_server import log_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ENGINES = [
    pytest.param("local", marks=pytest.mark.xdist_group("engine-local")),
    pytest.param(
        "slurm",
        marks=[
            pytest.mark.xdist_group("slurm"),
            pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm"),
        ],
    ),
]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def test_run_logs_metrics_and_makes_outputs(engine: Engine, tmp_path: Path) -> None:
    script = (
        "import os\nfrom azureml.core import Run\nrun = Run.get_context()\nrun.log('x', 1.5)\n"
        "print('said', os.environ['AZUREML_TARGET_TYPE'])\n"
        "open('outputs/made.txt', 'w').write('made')\n"
    )
    run = engine.submit(tmp_path, script)
    run.wait_for_completion()
    assert run.get_metrics() == {"x": 1.5}
    assert log_of(run, tmp_path) == {"local": "said AmlCompute\n", "slurm": "said SlurmCompute\n"}[engine.kind]
    run.download_file("outputs/made.txt", str(tmp_path / "made.txt"))
    assert (tmp_path / "made.txt").read_text() == "made"

"""Environments on nodes of an engine: the first is built there, later ones come packed from the server."""

import shutil
import sys
from pathlib import Path

import pytest

from runyard.azureml.core import Environment
from tests.engines.engines import make_engine, wait_until
from tests.environments.packages import source_of
from tests.environments.test_layers import whole_wheel
from tests.own_server import log_of

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm"),
]


def test_node_gets_what_the_server_has_built_as_a_pack(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    whole_wheel(tmp_path / "wheels", "tiny", {"tiny.py": "VALUE = 'tiny is here'\n"})
    environment = Environment("tiny")
    environment.python.conda_dependencies.set_python_version("{}.{}".format(*sys.version_info[:2]))
    environment.python.conda_dependencies.set_pip_requirements([*source_of(tmp_path / "wheels"), "tiny"])
    script = "import sys, tiny\nprint(tiny.VALUE, sys.prefix)"
    with make_engine("slurm", tmp_path) as engine:
        environment.build(engine.workspace).wait_for_completion(show_output=False)
        for is_packed in (False, True):
            run = engine.submit(tmp_path, script, environment=environment)
            run.wait_for_completion()
            said = log_of(run, tmp_path)
            assert said.startswith("tiny is here ")
            assert "/node/envs/" in said
            # uv has put nothing there.
            assert (engine.node_folder / "caches" / "uv").exists() != is_packed
            wait_until(lambda: bool(list(engine.home.glob("packs/engines/*.json"))), "the server has made a pack")
            # The node has looked at what it keeps.
            wait_until((engine.node_folder / "kept.json").exists, "the node has tidied up")
            for name in ("envs", "caches"):
                shutil.rmtree(engine.node_folder / name)

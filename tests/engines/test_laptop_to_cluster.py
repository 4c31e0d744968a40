"""The page "From a laptop to a cluster", block by block: what it shows is run, on each engine that it names."""

import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.engines import Engine, make_engine
from tests.engines.ray_cluster import RAY, RAY_HERE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "from-a-laptop-to-a-cluster.md"
#: What stands in the page for what differs from cluster to cluster: by engine, a pattern and what it is here.
Change = tuple[str, Callable[[Engine], str]]
CHANGES: dict[str, list[Change]] = {
    "nodes": [],
    "slurm": [(r'partition="compute"', lambda engine: f'partition="steady", node_folder={str(engine.node_folder)!r}')],
    "ray": [
        (r'"head.example:6379"', lambda engine: repr(engine.ray.address if engine.ray else "")),
        (r"/etc/ray/token", lambda engine: str(engine.ray.site.token_file if engine.ray else "")),
        (r"cpus=1", lambda engine: f"cpus=1, node_folder={str(engine.node_folder)!r}"),
    ],
}
NEEDS_SLURM = pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm")


def block_after(heading: str) -> str:
    """The first block of Python below a heading of the page."""
    found = re.search(rf"^##+ {heading}$.*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found.group(1)


def first_block(kind: str) -> str:
    """The page's beginning. The nodes of the tests' Ray cluster reach no index, so they take this interpreter."""
    text = block_after("A script, on this machine")
    package = 'environment.python.conda_dependencies.add_pip_package("six==1.17.0")'
    assert package in text
    here = (
        f"environment.python.user_managed_dependencies, environment.python.interpreter_path = True, {sys.executable!r}"
    )
    return text.replace(package, here) if kind == "ray" else text


def run_block(file: Path, text: str, names: dict[str, Any]) -> dict[str, Any]:
    """The names that are left after a block of the page."""
    file.write_text(text)
    return runpy.run_path(str(file), init_globals=names)


@pytest.mark.parametrize(
    ("kind", "heading"),
    [
        pytest.param("local", "Nodes of this machine", marks=pytest.mark.xdist_group("engine-local")),
        pytest.param("slurm", "Slurm", marks=[pytest.mark.xdist_group("slurm"), NEEDS_SLURM]),
        pytest.param("ray", "Ray", marks=RAY),
        pytest.param("ray-here", "A Ray on the server's own machine", marks=RAY_HERE),
    ],
)
def test_page_does_what_it_says(
    kind: str, heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with make_engine(kind, tmp_path) as engine:
        names = run_block(tmp_path / "first.py", first_block(kind), {})
        text = block_after(heading)
        for pattern, make in CHANGES.get(kind, []):
            assert re.search(re.escape(pattern), text), pattern
            text = text.replace(pattern, make(engine))
        names = run_block(tmp_path / "second.py", text, names)
        assert "process 0 of 4 on" in capsys.readouterr().out
        names["run"].download_file("user_logs/std_log_process_3.txt", str(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text().startswith("process 3 of 4 on")

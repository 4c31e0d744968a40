"""The page "From a laptop to a cluster", block by block: what it shows is run, on each engine that it names.

What is for the shell too: by a shell, with the engine's own names in place of the page's.
"""

import os
import re
import runpy
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.engines.engines import Engine, make_engine, wait_until
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
#: As above, of what is for the shell.
SHELL_CHANGES: dict[str, list[Change]] = {
    "slurm": [("partition=compute", lambda engine: f"partition=steady --set node_folder={engine.node_folder}")],
    "ray": [
        ("head.example:6379", lambda engine: engine.ray.address if engine.ray else ""),
        ("/etc/ray/token", lambda engine: str(engine.ray.site.token_file if engine.ray else "")),
        ("cpus=1", lambda engine: f"cpus=1 --set node_folder={engine.node_folder}"),
    ],
}
NEEDS_SLURM = pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm")
#: Headings whose commands are run with an engine; those of SERVER, by the test of its own.
FIRST, SERVER = "A script, on this machine", "What other machines need"
ENGINES = [
    pytest.param("local", "Nodes of this machine", marks=pytest.mark.xdist_group("engine-local")),
    pytest.param("slurm", "Slurm", marks=[pytest.mark.xdist_group("slurm"), NEEDS_SLURM]),
    pytest.param("ray", "Ray", marks=RAY),
    pytest.param("ray-here", "A Ray on the server's own machine", marks=RAY_HERE),
]
#: Commands that the page only names.
NAMED = {"runyard why", "runyard run show RUN --usage"}


def block_after(heading: str) -> str:
    """The first block of Python below a heading of the page."""
    found = re.search(rf"^##+ {heading}$.*?^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found.group(1)


def commands_after(heading: str) -> str:
    """What is for the shell between a heading of the page and the next."""
    (found,) = re.findall(rf"^##+ {re.escape(heading)}$(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return "".join(re.findall(r"^```bash\n(.*?)^```$", found, re.MULTILINE | re.DOTALL))


def in_shell(commands: str, **more: Any) -> "subprocess.Popen[str]":
    """A shell at work on these commands, the first of which that fails ends it."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    variables = {**os.environ, "PATH": path, "RUNYARD_WORKSPACE": "steps"}
    variables["PYTHONPATH"] = os.pathsep.join(one for one in sys.path if one)
    return subprocess.Popen(
        ["bash", "-euc", commands],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **more,
    )


def said_by(commands: str) -> str:
    """What the commands print; none of them may fail."""
    shell = in_shell(commands)
    said, _ = shell.communicate(timeout=120)
    assert shell.returncode == 0, said
    return said


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


def test_every_command_of_the_page_is_run_here() -> None:
    text = PAGE.read_text()
    shown = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    headings = [FIRST, SERVER, *(one.values[1] for one in ENGINES)]
    assert sorted(shown.splitlines()) == sorted("".join(map(commands_after, map(str, headings))).splitlines())
    assert set(re.findall(r"`((?:[A-Z_]+=\S+ )?runyard [^`]+)`", text)) <= NAMED


@pytest.mark.parametrize(("kind", "heading"), ENGINES)
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
        shown = said_by(commands_after(FIRST))
        assert "Nothing: the run has ended as Completed." in shown
        assert names["run"].id in shown
        commands = commands_after(heading)
        for pattern, make in SHELL_CHANGES.get(kind, []):
            assert pattern in commands, pattern
            commands = commands.replace(pattern, make(engine))
        assert {"ray-here": "own-ray deleted."}.get(kind, names["run"]._known().target) in said_by(commands)
        names["run"].download_file("user_logs/std_log_process_3.txt", str(tmp_path / "log.txt"))
    assert (tmp_path / "log.txt").read_text().startswith("process 3 of 4 on")


def test_server_starts_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate, and is not here")
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=head.example"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", "head.pem", "-keyout", "head.key"]
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    commands = commands_after(SERVER)
    assert "https://head.example:8443" in commands
    assert "--port 8443" in commands
    shell = in_shell(commands.replace("8443", str(port)).replace("head.example", "127.0.0.1"), cwd=tmp_path)
    trusted = ssl.create_default_context(cafile=str(tmp_path / "head.pem"))

    def answers() -> bool:
        assert shell.poll() is None, "the server goes on"
        with (
            suppress(OSError),
            urllib.request.urlopen(f"https://127.0.0.1:{port}/api/1/ping", timeout=10, context=trusted) as reply,
        ):
            return bool(reply.status == 200)
        return False

    try:
        wait_until(answers, "the server answers at the address that nodes use", 60)
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        shell.communicate(timeout=60)

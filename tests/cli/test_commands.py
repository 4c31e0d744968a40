"""The command line as a person and a program use it: real processes, a real server, an empty home."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference" / "cli.md"

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("cli")]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed: a source folder lies in it."""
    found = tmp_path_factory.mktemp("terminal")
    (found / "src").mkdir()
    (found / "src" / "train.py").write_text(
        "import sys\nfrom azureml.core import Run\nRun.get_context().log('accuracy', 0.5)\n"
        "open('outputs/result.txt', 'w').write('result')\nprint('words', sys.argv[1:])\n"
        "sys.exit(3 if 'fail' in sys.argv else 0)\n"
    )
    return found


@pytest.fixture(scope="module")
def runyard(folder: Path) -> Iterator[Run]:
    """Types one command; its server is stopped at the end."""
    variables = {**os.environ, "RUNYARD_HOME": str(folder / "home")}

    def run(*words: str, code: int = 0, **more: str) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [sys.executable, "-m", "runyard.cli", *words],
            cwd=folder,
            env={**variables, **more},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    assert _json(run("workspace", "create", "terminal", "--json"))["config"] == ".azureml/config.json"
    assert _json(run("up", "--json"))["started"] is False
    yield run
    assert _json(run("down", "--json"))["stopped"] is True
    assert _json(run("down", "--json"))["stopped"] is False


def _json(done: "subprocess.CompletedProcess[str]") -> Any:
    return json.loads(done.stdout)


def test_up_returns_with_none_of_its_callers_pipes_held(tmp_path: Path) -> None:
    variables = {**os.environ, "RUNYARD_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-m", "runyard.cli"]
    began = time.monotonic()
    first = subprocess.run([*words, "up"], env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert time.monotonic() - began < 30
    assert "started" in first.stdout
    again = subprocess.run([*words, "up"], env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert "runs already" in again.stdout
    shown = subprocess.run([*words, "status", "--json"], env=variables, capture_output=True, text=True, check=True)
    status = json.loads(shown.stdout)
    facts = {"running", "url", "pid", "home", "version", "store", "store_problem", "isolation", "isolation_problem"}
    assert set(status) == facts
    assert os.readlink(f"/proc/{status['pid']}/fd/0") == "/dev/null"
    subprocess.run([*words, "down"], env=variables, capture_output=True, timeout=60, check=True)
    down = subprocess.run([*words, "status"], env=variables, capture_output=True, text=True, check=False)
    assert (down.returncode, "not running" in down.stdout) == (3, True)


def test_submitted_run_is_followed_listed_shown_and_downloaded(runyard: Run, folder: Path) -> None:
    followed = runyard("run", "submit", "src", "--follow", "--tag", "colour=blue", "--", "--rate", "0.1")
    assert "words ['--rate', '0.1']" in followed.stdout
    (listed,) = _json(runyard("run", "list", "--json"))
    assert (listed["status"], listed["tags"]) == ("Completed", {"colour": "blue"})
    assert listed["id"] in runyard("run", "list").stdout
    shown = _json(runyard("run", "show", "latest", "--json"))
    assert shown["metrics"] == {"accuracy": 0.5}
    assert "outputs/result.txt" in shown["files"]
    assert "words" in runyard("run", "logs", listed["id"][:-4]).stdout
    got = _json(runyard("run", "download", "latest", "--prefix", "outputs", "--to", "got", "--json"))
    assert got == {"run": listed["id"], "folder": "got"}
    sent = _json(runyard("run", "snapshot", "latest", "--to", "source-again", "--json"))
    assert sent == {"run": listed["id"], "folder": "source-again", "files": 1}
    assert _json(runyard("run", "cancel", "latest", "--json"))["status"] == "Completed"
    assert (folder / "source-again" / "train.py").read_bytes() == (folder / "src" / "train.py").read_bytes()
    assert (folder / "got" / "outputs" / "result.txt").read_text() == "result"
    assert "exists already" in runyard("run", "snapshot", "latest", "--to", "source-again", code=1).stderr
    assert "ended as Completed" in runyard("why", "latest").stdout


def test_followed_run_that_fails_ends_with_its_own_exit_code(runyard: Run) -> None:
    done = runyard("run", "submit", "src", "--follow", "--", "fail", code=4)
    assert "ended with exit code 3" in done.stdout


def test_mistakes_end_with_one_sentence_and_a_stable_exit_code(runyard: Run) -> None:
    unknown = runyard("run", "show", "nothing", code=1)
    assert unknown.stderr.startswith("runyard: No run 'nothing'")
    assert unknown.stderr.count("\n") == 1
    runyard("run", "show", code=2)
    assert "does not exist" in runyard("run", "submit", "src", "--target", "absent", code=1).stderr


def test_broken_config_is_told_and_no_other_workspace_taken(runyard: Run, folder: Path) -> None:
    config = folder / ".azureml" / "config.json"
    before = config.read_text()
    config.write_text("{")
    try:
        assert "is not a workspace config" in runyard("run", "list", code=1).stderr
        runyard("run", "list", RUNYARD_WORKSPACE="terminal")
    finally:
        config.write_text(before)


def test_clusters_are_made_listed_and_deleted(runyard: Run) -> None:
    runyard("compute", "create", "small", "--max-nodes", "2")
    (cluster,) = _json(runyard("compute", "list", "--json"))
    assert (cluster["name"], cluster["spec"]["max_nodes"]) == ("small", 2)
    assert _json(runyard("compute", "delete", "small", "--json")) == {"name": "small", "deleted": True}
    assert _json(runyard("compute", "list", "--json")) == []


def test_cluster_of_low_priority_is_changed_and_loses_a_node(runyard: Run) -> None:
    """By its other name, ``runyard cluster``."""
    spec = _json(runyard("cluster", "create", "spot", "--priority", "lowpriority", "--min-nodes", "1", "--json"))[
        "spec"
    ]
    assert (spec["vm_priority"], spec["max_nodes"]) == ("lowpriority", 4)
    assert (
        "vm_priority is dedicated or lowpriority"
        in runyard("compute", "create", "x", "--priority", "no", code=1).stderr
    )
    words = ("--max-nodes", "2", "--idle-seconds", "60", "--json")
    spec = _json(runyard("compute", "update", "spot", *words))["spec"]
    found = [spec[name] for name in ("min_nodes", "max_nodes", "idle_seconds_before_scaledown")]
    assert found == [1, 2, 60], "what was not named is as it was"
    assert "Say what changes" in runyard("compute", "update", "spot", code=1).stderr
    ends_at = time.monotonic() + 30
    while not (nodes := _json(runyard("compute", "show", "spot", "--json"))["nodes"]):
        assert time.monotonic() < ends_at
    node = nodes[0]["id"].rpartition("/")[2]
    assert _json(runyard("cluster", "drain", "spot", node, "--json"))["name"] == "spot"
    runyard("cluster", "delete", "spot")


def test_datasets_environments_and_models_are_listed(runyard: Run, folder: Path) -> None:
    runyard("dataset", "register", "source", str(folder / "src"))
    assert _json(runyard("dataset", "show", "source", "--json"))["paths"] == ["/train.py"]
    assert "tensorflow-gpu==2.2.0" in runyard("env", "show", "AzureML-TensorFlow-2.2-GPU").stdout
    assert _json(runyard("model", "list", "--json")) == []


def test_link_of_open_signs_a_browser_in_once(runyard: Run) -> None:
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    link = urlsplit(runyard("open").stdout.strip())
    connection = HTTPConnection(link.netloc, timeout=10)
    for status in (303, 401):
        connection.request("GET", f"{link.path}?{link.query}")
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status
    connection.close()


def test_created_token_does_what_its_role_may_from_a_home_of_its_own(runyard: Run, tmp_path: Path) -> None:
    made = runyard("token", "create", "rita", "--role", "reader", "--days", "1", "--json")
    token = _json(made)
    assert (token["name"], token["role"], token["kind"]) == ("rita", "reader", "service")
    assert abs(token["expires_at"] / 1e6 - time.time() - 86_400) < 600
    hers = {
        "RUNYARD_SERVER": _json(runyard("status", "--json"))["url"],
        "RUNYARD_TOKEN": token["secret"],
        "RUNYARD_HOME": str(tmp_path),
        "RUNYARD_WORKSPACE": "terminal",
    }
    assert isinstance(_json(runyard("run", "list", "--json", **hers)), list)
    refused = runyard("compute", "create", "hers", code=1, **hers)
    assert "rita has the role 'reader', which may not create cluster" in refused.stderr
    assert "no end" in runyard("token", "create", "carl", "--user").stdout


def test_doctor_finds_nothing_that_fails(runyard: Run) -> None:
    found = _json(runyard("doctor", "--json"))
    assert {one["what"] for one in found} >= {"Python", "uv", "Home", "Disk", "Server", "azureml"}
    assert [one for one in found if one["state"] == "fail"] == []


def test_every_command_stands_in_the_reference() -> None:
    from typer.main import get_command

    from runyard.cli.__main__ import app

    page = REFERENCE.read_text()
    top = get_command(app)
    names = []
    for name, command in top.commands.items():  # type: ignore[attr-defined]
        if command.hidden:
            continue  # another name of one that is there
        below = getattr(command, "commands", None)
        names += [f"runyard {name} {one}" for one in below] if below else [f"runyard {name}"]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_command_prints_json_but_those_that_print_a_text_or_an_answer() -> None:
    from typer.main import get_command

    from runyard.cli.__main__ import app

    without = []
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None) or {"": command}
        without += [
            f"{name} {one}".strip()
            for one, each in below.items()
            if not any("--json" in option.opts for option in each.params)
        ]
    assert sorted(without) == ["open", "run logs", "service logs", "service score"]


def test_conda_file_is_solved_built_and_compared(runyard: Run, folder: Path) -> None:
    here = "{}.{}".format(*sys.version_info[:2])
    for name, pin in (("one", "1.16.0"), ("two", "1.17.0")):
        text = f"dependencies:\n- python={here}\n- pip:\n  - azureml-defaults\n  - six=={pin}\n"
        (folder / f"{name}.yml").write_text(text)
    solved = runyard("env", "solve", "one.yml").stdout
    assert f"Python  {here}" in solved
    assert "azureml-defaults -> left out; Runyard's own kit provides it." in solved
    lock = _json(runyard("env", "solve", "one.yml", "--json"))
    assert lock["requirements"] == ["six==1.16.0"]
    interpreter = _json(runyard("env", "build", "one.yml", "--json"))["interpreter"]
    assert subprocess.run([interpreter, "-c", "import six"], check=False).returncode == 0
    assert lock["digest"] in [one["digest"] for one in _json(runyard("env", "list", "--built", "--json"))]
    changed = _json(runyard("env", "diff", "one.yml", "two.yml", "--json"))
    assert changed == [{"package": "six", "first": "1.16.0", "second": "1.17.0"}]
    assert _json(runyard("env", "prune", "--days", "0", "--json")) == [], "what was used within the hour stays"


def test_snapshot_is_told_before_it_is_sent(runyard: Run, folder: Path) -> None:
    (folder / "src" / ".env").write_text("SECRET=1")
    said = runyard("snapshot", "src", "--dry-run").stdout
    assert "2 files, " in said
    assert "its name is like .env" in said
    assert {one["path"] for one in _json(runyard("snapshot", "src", "--json"))["files"]} == {".env", "train.py"}
    (folder / "src" / ".env").unlink()
    odd = [folder / "src" / "two\nlines", folder / "src" / "latin-\udce9"]
    for path in odd:
        path.touch()
    said = runyard("snapshot", "src").stdout
    assert "'two\\nlines'  " in said
    assert "'latin-\\udce9'  " in said
    assert "These would be refused" in said
    named = {one["path"] for one in _json(runyard("snapshot", "src", "--json"))["files"]}
    assert named == {"train.py", *(path.name for path in odd)}
    for path in odd:
        path.unlink()


def test_pin_that_cannot_be_had_is_answered_with_what_can(runyard: Run, folder: Path) -> None:
    (folder / "old.yml").write_text("dependencies:\n- python=3.11\n- pip:\n  - tensorflow==2.2.0\n")
    said = runyard("env", "solve", "old.yml", code=1).stderr
    assert "tensorflow==2.2.0 has no wheel for Python 3.11; it has wheels for Python 3.5, 3.6, 3.7, 3.8." in said
    (folder / "never.yml").write_text("dependencies:\n- python=3.5\n- pip:\n  - torch==1.4.0\n  - tensorflow==2.16.1\n")
    said = runyard("env", "solve", "never.yml", code=1).stderr
    assert "No Python fits every pin: torch==1.4.0 has 3.7, 3.8; tensorflow==2.16.1 has 3.9 to 3.12." in said

"""runyard deploy and runyard service as typed, wrong and right, with a real service."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Environment, Workspace
from tests.engines.engines import wait_until
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("cli")]

#: Answers with the bytes that it got, backwards.
RAW = """
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse

@rawhttp
def run(request):
    return AMLResponse(request.get_data()[::-1], 200)
"""
SLOW = "import time\n\ndef init():\n    time.sleep(60)\n\ndef run(data):\n    return 1\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the commands are typed, on a server with a workspace, an environment and a service."""
    found = tmp_path_factory.mktemp("terminal")
    (found / "raw.py").write_text(RAW)
    (found / "slow.py").write_text(SLOW)
    with own_server(tmp_path_factory.mktemp("home")):
        workspace = Workspace.create("terminal")
        environment = Environment("as-it-is")
        environment.python.user_managed_dependencies = True
        environment.python.interpreter_path = sys.executable
        environment.register(workspace)
        typed(found, "deploy", "backwards", "--script", "raw.py", "--environment", "as-it-is", "--max-replicas", "2")
        yield found
        # Services outlive their server.
        for service in workspace.webservices.values():
            service.delete()


def typed(folder: Path, *words: str, code: int = 0, given: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    done = subprocess.run(
        [sys.executable, "-m", "runyard.cli", *words],
        cwd=folder, input=given, capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deploy", "no-parts"), "Give --model NAME, or --script FILE"),
        (("deploy", "no-script", "--model", "any", "--conda-file", "x.yml"), "--conda-file belongs to a script"),
        (("service", "update", "backwards"), "Nothing to change was given"),
        (("service", "update", "backwards", "--source", "."), "--source belongs to a script"),
        (("service", "show", "backward"), "Did you mean 'backwards'?"),
        (("service", "score", "backward", "{}"), "Did you mean 'backwards'?"),
        (("service", "score", "backwards", "@nowhere.json"), "There is no file 'nowhere.json' to send"),
        (("service", "keys", "backwards", "--renew", "third"), "a Primary and a Secondary key, and no 'third'"),
        (("service", "rollback", "backwards"), "has no earlier revision to go back to"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_1(folder: Path, words: tuple[str, ...], said: str) -> None:
    told = typed(folder, *words, code=1).stderr.decode()
    assert said in told
    assert len(told.splitlines()) == 1


def test_bytes_go_to_a_service_and_come_back(folder: Path) -> None:
    data = bytes(range(256))
    (folder / "data.bin").write_bytes(data)
    assert typed(folder, "service", "score", "backwards", "@data.bin").stdout == data[::-1]
    assert typed(folder, "service", "score", "backwards", "-", given=data).stdout == data[::-1]


def test_a_service_shows_who_may_ask_and_how_far_it_scales(folder: Path) -> None:
    shown = typed(folder, "service", "show", "backwards").stdout.decode()
    # A look that has met a request of the test before has begun a second one.
    assert re.search(r"^Replicas    [12] \(1 to 2, by requests under way\)$", shown, re.MULTILINE), shown
    assert "Open to     anyone who reaches it" in shown
    changed = json.loads(typed(folder, "service", "update", "backwards", "--replicas", "1", "--auth", "--json").stdout)
    assert ("autoscale" in changed["spec"]["deployment"], changed["access"]) == (False, "key")
    shown = typed(folder, "service", "show", "backwards").stdout.decode()
    assert "Replicas    1\n" in shown
    assert "Open to     who has a key" in shown


def test_a_service_of_the_kind_aks_asks_for_a_key_unless_told(folder: Path) -> None:
    words = ["deploy", "as-on-aks", "--script", "raw.py", "--environment", "as-it-is", "--kind", "aks", "--json"]
    for more, access in (((), "key"), (("--no-auth", "--overwrite"), "open")):
        assert json.loads(typed(folder, *words, *more).stdout)["access"] == access


def test_an_interrupted_wait_says_that_the_service_goes_on(folder: Path) -> None:
    words = ["deploy", "slow-one", "--script", "slow.py", "--environment", "as-it-is"]
    # Whoever started these tests may have had interrupts ignored.
    program = ["env", "--default-signal=INT", sys.executable, "-m", "runyard.cli", *words]
    waiting = subprocess.Popen(program, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def is_listed() -> bool:
        return "slow-one" in Workspace.get("terminal").webservices

    wait_until(is_listed, "it is deployed", 30)
    # It waits for the deployment, and for nothing else, once the service is there.
    wait_until(lambda: b"being loaded" in typed(folder, "service", "show", "slow-one").stdout, "it loads", 30)
    waiting.send_signal(signal.SIGINT)
    _, told = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert b"slow-one goes on without this command: runyard service show slow-one" in told
    assert json.loads(typed(folder, "service", "delete", "slow-one", "--json").stdout)["deleted"] is True

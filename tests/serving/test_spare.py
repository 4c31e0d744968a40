"""The supervisor, and its front, that wait for the next service: taken, replaced, and gone with their server."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Webservice, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.client.home import home_folder, read_server_file, server_file
from runyard.environments.confinement import why_not
from runyard.sdk.session import forget_server
from tests.serving.test_services import here, post
from tests.serving.test_survive import ECHO, below, fronts, scripted, seen_of, wait_until
from tests.serving.test_survive_server import begin, kill_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]
__all__ = ["scripted"]


def server_pid() -> int:
    record = read_server_file(server_file(home_folder()))
    assert record is not None
    return int(record["pid"])


def spare_of(server: int) -> tuple[int, int]:
    """(the supervisor that waits, its front), once both run."""
    (spare,) = wait_until(lambda: waiting(server), "a supervisor waits")
    (front,) = wait_until(lambda: programs(below(spare, "-m runyard.serving.front")), "so does its front")
    return spare, front


def programs(pids: list[int]) -> list[int]:
    """Those that Python has begun in; bubblewrap has its command's words too."""
    return [one for one in pids if "python" in os.path.basename(os.readlink(f"/proc/{one}/exe"))]


def waiting(server: int) -> list[int]:
    """Supervisors below that server that have no service."""
    found = []
    for task in Path(f"/proc/{server}/task").iterdir():
        for child in (task / "children").read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            found += [int(child)] if b"--spare" in words else []
    services = {seen_of(one).pid for one in Webservice.list(Workspace.get("serving"))}
    return [one for one in found if one not in services]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_next_service_takes_the_supervisor_that_waits_and_its_front(scripted: Any) -> None:
    scripted("first", ECHO)
    server = server_pid()
    spare, front = spare_of(server)
    second = scripted("second", ECHO)
    assert (seen_of(second).pid, fronts(second)) == (spare, [front])
    assert post(second.scoring_uri, [2]) == (200, [2])
    assert "model loaded" in second.get_logs(), "its words are in the service's log"
    again, _ = spare_of(server)
    assert again != spare
    second.delete()
    assert is_gone(spare)
    assert is_gone(front)


@pytest.mark.skipif(bool(why_not()), reason="bubblewrap cannot confine here")
def test_front_sees_nothing_of_the_home_that_its_service_is_in(scripted: Any) -> None:
    scripted("first", ECHO)
    spare_of(server_pid())
    for service in (scripted("taken", ECHO), scripted("fresh", ECHO)):
        (front,) = fronts(service)
        assert Path(f"/proc/{front}/root/usr").is_dir()
        assert os.listdir(f"/proc/{front}/root{home_folder()}") == []


def test_supervisor_that_was_killed_while_it_waited_is_missed_by_nobody(scripted: Any) -> None:
    scripted("first", ECHO)
    spare, front = spare_of(server_pid())
    os.kill(spare, signal.SIGKILL)
    service = scripted("second", ECHO)
    assert seen_of(service).pid != spare
    assert post(service.scoring_uri, 1) == (200, 1)
    wait_until(lambda: is_gone(front), "its front has ended with it")


def test_front_that_was_killed_while_it_waited_is_missed_by_nobody(scripted: Any) -> None:
    scripted("first", ECHO)
    spare, front = spare_of(server_pid())
    os.kill(front, signal.SIGKILL)
    service = scripted("second", ECHO)
    assert (seen_of(service).pid, post(service.scoring_uri, 1)) == (spare, (200, 1))


def test_killed_server_takes_along_what_waits_and_no_service(workspace: Workspace, scripted: Any) -> None:
    service = scripted("first", ECHO)
    server = server_pid()
    spare, front = spare_of(server)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: is_gone(spare) and is_gone(front), "they have ended")
    assert post(service.scoring_uri, 3) == (200, 3)
    wait_until(lambda: is_gone(server), "the server is gone")
    forget_server()
    assert workspace.webservices["first"].state == "Healthy"


def test_three_services_at_once_have_a_supervisor_each(workspace: Workspace, scripted: Any, script_folder: Any) -> None:
    scripted("first", ECHO)
    spare, _ = spare_of(server_pid())
    made = [begin(workspace, script_folder(ECHO), f"one-of-three-{number}") for number in range(3)]
    for service in made:
        service.wait_for_deployment(timeout_sec=60)
    pids = {seen_of(one).pid for one in made}
    assert (len(pids), spare in pids) == (3, True)
    for service in made:
        assert post(service.scoring_uri, 4) == (200, 4)
        service.delete()


def test_update_of_a_service_has_none_wait(scripted: Any, script_folder: Any) -> None:
    service = scripted("first", ECHO)
    kill_server()
    service.update_deployment_state()  # By the next server.
    folder = script_folder("def run(data):\n    return 2\n")
    service.update(inference_config=InferenceConfig("score.py", source_directory=folder, environment=here()))
    service.wait_for_deployment()
    time.sleep(2.5)  # Two looks of the server.
    assert waiting(server_pid()) == []
    assert post(service.scoring_uri, 1) == (200, 2)

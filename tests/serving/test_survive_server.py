"""Services beside a server that is killed, names that two want at once, ports that are taken, and deletes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Model, Webservice, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AciWebservice, AksWebservice, LocalWebservice
from runyard.client.home import home_folder, read_server_file, server_file
from runyard.errors import AzureMLException, WebserviceException
from runyard.sdk.session import forget_server
from tests.serving.test_services import here, post
from tests.serving.test_survive import ECHO, folder_of, replicas, scripted, seen_of, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]
__all__ = ["scripted"]

ROOT = Path(__file__).resolve().parents[2]

SLOW_START = "import json, time\ndef init():\n    time.sleep(4)\ndef run(data):\n    return json.loads(data)\n"
NEVER = "import time\ndef init():\n    time.sleep(3600)\ndef run(data):\n    return 1\n"


def begin(workspace: Workspace, folder: str, name: str, **settings: Any) -> Webservice:
    """Deploys, and does not wait."""
    config = InferenceConfig("score.py", source_directory=folder, environment=here())
    return Model.deploy(workspace, name, [], config, **settings)


def kill_server() -> None:
    record = read_server_file(server_file(home_folder()))
    assert record is not None
    os.kill(record["pid"], signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{record['pid']}/exe"), "the server is gone")
    forget_server()


def test_services_answer_while_the_server_is_dead_and_the_next_one_finds_them(
    workspace: Workspace, scripted: Any, script_folder: Any
) -> None:
    config = AciWebservice.deploy_configuration(auth_enabled=True, primary_key="a-key-of-this-test")
    service = scripted("outlives", ECHO, config)
    with pytest.raises(WebserviceException):
        scripted("never-was", "raise ValueError('broken')\n" + ECHO)
    moving = begin(workspace, script_folder(SLOW_START), "on-its-way")
    going = begin(workspace, script_folder(NEVER), "on-its-way-out")
    wait_until(lambda: replicas(going), "its model is being loaded")
    pids = [seen_of(one).pid for one in (service, moving)]
    workspace._call("delete_service", name="on-its-way-out")
    kill_server()
    assert post(service.scoring_uri, [1], Authorization="Bearer a-key-of-this-test") == (200, [1])
    service.update_deployment_state()  # By the next server.
    assert service.state == "Healthy"
    moving.wait_for_deployment(timeout_sec=60)
    assert post(moving.scoring_uri, [2]) == (200, [2])
    assert [seen_of(one).pid for one in (service, moving)] == pids
    wait_until(lambda: "on-its-way-out" not in workspace.webservices, "it is deleted")
    assert workspace.webservices["never-was"].state == "Failed"
    assert "model loaded" in service.get_logs()
    service.regen_key("Primary")
    wait_until(
        lambda: post(service.scoring_uri, 0, Authorization="Bearer a-key-of-this-test")[0] == 401, "the key ends"
    )
    for name in ("outlives", "on-its-way", "never-was"):
        workspace.webservices[name].delete()
        assert name not in workspace.webservices
    assert not folder_of(service).exists()


def test_a_server_and_its_services_that_are_all_killed_come_back(scripted: Any) -> None:
    service = scripted("all-gone", ECHO)
    before = seen_of(service)
    os.kill(before.pid, signal.SIGKILL)
    kill_server()
    service.update_deployment_state()
    wait_until(lambda: seen_of(service).pid != before.pid and seen_of(service).state == "Healthy", "it comes back")
    assert seen_of(service).port == before.port
    assert post(service.scoring_uri, [1]) == (200, [1])


def test_of_two_deployments_of_one_name_one_wins(workspace: Workspace, script_folder: Any) -> None:
    folder = script_folder(ECHO)

    def attempt(_: int) -> Any:
        try:
            return begin(workspace, folder, "wanted-twice")
        except AzureMLException as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(attempt, range(4)))
    services = [one for one in made if isinstance(one, Webservice)]
    assert len(services) == 1
    assert all(
        isinstance(one, WebserviceException) and "exists already" in str(one) for one in made if one not in services
    )
    services[0].wait_for_deployment()
    services[0].delete()


def test_a_name_is_deployed_and_deleted_again_and_again(workspace: Workspace, script_folder: Any) -> None:
    for number in range(4):
        service = begin(workspace, script_folder(f"def run(data):\n    return {number}\n"), "again")
        if number % 2:
            service.wait_for_deployment()
            assert service.run("0") == number
        service.delete()
    assert "again" not in workspace.webservices


def test_a_service_is_deleted_while_it_answers_and_while_its_model_is_loaded(
    workspace: Workspace, scripted: Any, script_folder: Any
) -> None:
    service = scripted("in-use", "import time\ndef run(data):\n    time.sleep(60)\n")
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(post(service.scoring_uri, 0))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: seen_of(service).statistics.in_flight, "a request is under way")
    pid = seen_of(service).pid
    service.delete()
    thread.join(10)
    assert found
    assert not os.path.exists(f"/proc/{pid}/exe")
    loading = begin(workspace, script_folder(NEVER), "loading")
    wait_until(lambda: replicas(loading), "its model is being loaded")
    loading.delete()
    assert not folder_of(loading).exists()


def test_a_port_that_is_taken_is_a_sentence_and_later_it_can_be_had(workspace: Workspace, script_folder: Any) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    folder = script_folder(ECHO)
    config = LocalWebservice.deploy_configuration(port=port)
    service = begin(workspace, folder, "ported", deployment_config=config)
    with pytest.raises(WebserviceException, match=f"Port {port} cannot be listened on"):
        service.wait_for_deployment(timeout_sec=60)
    lines = service.get_logs()
    taken.close()
    assert service.get_logs() == lines, "it is left alone"
    service = begin(workspace, folder, "ported", deployment_config=config, overwrite=True)
    service.wait_for_deployment(timeout_sec=60)
    assert f":{port}/" in service.scoring_uri
    assert service.run("[1]") == [1]
    service.delete()


def test_what_cannot_be_prepared_fails_once(workspace: Workspace, script_folder: Any) -> None:
    environment = here()
    environment.python.interpreter_path = "/nowhere/python"
    config = InferenceConfig("score.py", source_directory=script_folder(ECHO), environment=environment)
    service = Model.deploy(workspace, "unprepared", [], config)
    with pytest.raises(WebserviceException, match="nowhere"):
        service.wait_for_deployment(timeout_sec=60)
    lines = service.get_logs()
    time.sleep(2.5)  # Two looks of the server.
    assert service.get_logs() == lines
    service.delete()


def test_replicas_follow_the_requests_in_flight(scripted: Any) -> None:
    config = AksWebservice.deploy_configuration(
        autoscale_enabled=True, autoscale_min_replicas=1, autoscale_max_replicas=3, autoscale_refresh_seconds=0.1,
        autoscale_target_utilization=100, auth_enabled=False,
    )  # fmt: skip
    service = scripted("scaled", "import time\ndef run(data):\n    time.sleep(0.5)\n    return 1\n", config)
    is_over = threading.Event()

    only_one = threading.Event()

    def ask() -> None:
        while not is_over.is_set() and (not only_one.is_set() or threading.current_thread() is threads[0]):
            statuses.append(post(service.scoring_uri, 0)[0])

    statuses: list[int] = []
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for one in threads:
        one.start()
    wait_until(lambda: seen_of(service).replicas == 3, "more replicas")
    only_one.set()
    wait_until(lambda: seen_of(service).replicas < 3, "fewer replicas, while one request is always under way")
    is_over.set()
    for one in threads:
        one.join()
    assert set(statuses) == {200}
    assert post(service.scoring_uri, 0)[0] == 200


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="a disk of its own needs a mount namespace",
)
def test_a_full_disk_ends_no_service_and_what_is_deployed_then_says_so(tmp_path: Path) -> None:
    words = ["unshare", "-m", sys.executable, str(Path(__file__).with_name("full_disk.py")), str(tmp_path)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "survived"

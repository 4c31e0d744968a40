"""Services under hostile conditions: models that hang and crash, killed processes, updates under load."""

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from runyard.azureml.core import Webservice
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AksWebservice
from runyard.client.home import home_folder
from runyard.protocol.services import Seen
from runyard.protocol.wire import loads
from tests.serving.conftest import Deploy
from tests.serving.test_services import here, post

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]

#: How long anything here may take to come about, seconds.
WAIT_S = 30.0
ECHO = "import json\ndef run(data):\n    return json.loads(data)\n"


def wait_until(is_so: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        found = is_so()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {WAIT_S:g} s: {what}")


def folder_of(service: Webservice) -> Path:
    """Where the service's supervisor keeps its files."""
    return home_folder() / "services" / service._record.id


def seen_of(service: Webservice) -> Seen:
    return loads(Seen, (folder_of(service) / "seen.json").read_text())


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(one) for one in (task / "children").read_text().split()]
    return found


def below(pid: int, words: str) -> list[int]:
    """Processes below that one whose command has these words, and which have no child that has them too."""
    found = []
    for child in children(pid):
        inner = below(child, words)
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        found += inner or ([child] if words in command else [])
    return found


def fronts(service: Webservice) -> list[int]:
    return below(seen_of(service).pid, "runyard.serving.front")


def replicas(service: Webservice) -> list[int]:
    """Processes with the model; none before the supervisor has said anything."""
    try:
        return below(seen_of(service).pid, "-m runyard.scoring ")
    except FileNotFoundError:
        return []


class Load:
    """Callers that ask without a pause, some on kept connections and some on new ones; counts what fails."""

    def __init__(self, uri: str, body: Any, is_right: Callable[[Any], bool], kept: int = 3, fresh: int = 2) -> None:
        self._uri, self._body, self._is_right = uri, json.dumps(body), is_right
        self._is_over = threading.Event()
        self.answered, self.failures = 0, []
        self._threads = [
            threading.Thread(target=self._ask, args=(one < kept,), daemon=True) for one in range(kept + fresh)
        ]

    def __enter__(self) -> "Load":
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._is_over.set()
        for one in self._threads:
            one.join(WAIT_S)
            assert not one.is_alive(), "a request is never answered"

    def wait_for(self, more: int) -> None:
        wanted = self.answered + more
        wait_until(lambda: self.answered >= wanted, f"{more} more answers; failures: {self.failures[:3]}")

    def _ask(self, is_kept: bool) -> None:
        session = requests.Session()
        while not self._is_over.is_set():
            if not is_kept:
                session = requests.Session()
            try:
                reply = session.post(self._uri, data=self._body, timeout=WAIT_S)
                if reply.status_code != 200 or not self._is_right(reply.json()):
                    self.failures.append(f"{reply.status_code} {reply.text[:200]}")
            except requests.RequestException as error:
                self.failures.append(repr(error)[:300])
            self.answered += 1
            if not is_kept:
                session.close()


@pytest.fixture
def scripted(deploy: Deploy, script_folder: Any) -> Callable[..., Webservice]:
    """Deploys an entry script of that text."""

    def begin(name: str, text: str, configuration: Any = None) -> Webservice:
        config = InferenceConfig("score.py", source_directory=script_folder(text), environment=here())
        return deploy(name, [], config, configuration)

    return begin


def test_an_update_under_load_fails_no_request(scripted: Any, script_folder: Any) -> None:
    service = scripted("steady", "def run(data):\n    return 1\n")
    with Load(service.scoring_uri, 0, lambda answer: answer in (1, 2)) as load:
        for number in (2, 1, 2):
            load.wait_for(200)
            folder = script_folder(f"def run(data):\n    return {number}\n")
            service.update(inference_config=InferenceConfig("score.py", source_directory=folder, environment=here()))
            service.wait_for_deployment()
        load.wait_for(200)
    assert load.failures == []
    assert service.run("0") == 2


def test_a_replica_that_is_killed_under_load_fails_only_what_it_works_at(scripted: Any) -> None:
    config = AksWebservice.deploy_configuration(num_replicas=2, auth_enabled=False)
    service = scripted("killed", ECHO, config)
    with Load(service.scoring_uri, 1, lambda answer: answer == 1) as load:
        load.wait_for(100)
        victims = wait_until(lambda: replicas(service), "replicas run")
        os.kill(victims[0], signal.SIGKILL)
        load.wait_for(300)
        wait_until(lambda: len(replicas(service)) == 2 and victims[0] not in replicas(service), "a new replica")
    assert len(load.failures) <= 1, load.failures


def test_a_front_that_is_killed_keeps_new_connections_waiting(scripted: Any) -> None:
    service = scripted("frontless", ECHO)
    with Load(service.scoring_uri, 1, lambda answer: answer == 1) as load:
        load.wait_for(100)
        (front,) = fronts(service)
        os.kill(front, signal.SIGKILL)
        load.wait_for(200)
        assert fronts(service) != [front]
    assert len(load.failures) <= 5, load.failures


def test_a_supervisor_that_is_killed_is_started_anew_on_its_port(scripted: Any) -> None:
    service = scripted("orphan", ECHO)
    before = seen_of(service)
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: seen_of(service).pid != before.pid, "another supervisor")
    wait_until(lambda: seen_of(service).state == "Healthy", "healthy again")
    assert seen_of(service).port == before.port
    assert post(service.scoring_uri, [1])[1] == [1]


def test_a_request_that_hangs_gets_504_and_others_are_served(scripted: Any) -> None:
    text = "import json, time\ndef run(data):\n    while data == '0':\n        time.sleep(60)\n    return 7\n"
    config = AksWebservice.deploy_configuration(num_replicas=2, auth_enabled=False, scoring_timeout_ms=1500)
    service = scripted("hangs", text, config)
    before = set(replicas(service))
    hung: list[Any] = []
    thread = threading.Thread(target=lambda: hung.append(post(service.scoring_uri, 0)))
    thread.start()
    for _ in range(20):
        assert post(service.scoring_uri, 1) == (200, 7)
    thread.join()
    assert hung[0][0] == 504
    wait_until(lambda: len(set(replicas(service)) - before) == 1, "the process is started anew")
    wait_until(lambda: len(replicas(service)) == 2, "and the one that hung is gone")
    os.kill(replicas(service)[0], signal.SIGSTOP)
    statuses = [post(service.scoring_uri, 1)[0] for _ in range(3)]
    assert set(statuses) <= {200, 504}
    wait_until(lambda: post(service.scoring_uri, 1) == (200, 7), "a stopped process is started anew")


def test_a_model_that_leaks_is_started_anew_with_a_sentence(scripted: Any) -> None:
    text = "kept = []\ndef run(data):\n    kept.append(bytearray(200_000_000))\n    return len(kept)\n"
    config = AksWebservice.deploy_configuration(
        auth_enabled=False, num_replicas=1, memory_gb_limit=0.3, memory_gb=0.1
    )  # fmt: skip
    service = scripted("leaks", text, config)
    assert post(service.scoring_uri, 0) == (200, 1)
    assert post(service.scoring_uri, 0)[0] in (200, 502), "it may be ended while it answers"
    # Where no control group can be made, a look every other second finds it out.
    said = ("took more than 0.3 GB of memory", "takes more than 0.3 GB of memory")
    wait_until(lambda: any(one in service.get_logs() for one in said), "the log says so")
    wait_until(lambda: post(service.scoring_uri, 0)[1] == 1, "a fresh process")


def test_a_process_has_the_threads_and_the_processors_that_were_asked_for(scripted: Any) -> None:
    text = (
        "import os, time\ndef run(data):\n    ends_at = time.monotonic() + 2\n    before = time.process_time()\n"
        "    while time.monotonic() < ends_at: pass\n"
        "    return [os.environ['OMP_NUM_THREADS'], time.process_time() - before]\n"
    )
    config = AksWebservice.deploy_configuration(
        auth_enabled=False, num_replicas=1, cpu_cores=0.1, cpu_cores_limit=0.25, memory_gb=0.1
    )  # fmt: skip
    service = scripted("held", text, config)
    status, (threads, used_s) = post(service.scoring_uri, 0)
    assert (status, threads) == (200, "1")
    is_held = used_s < 1.0
    assert is_held != ("cpu_cores_limit=0.25 is not held" in service.get_logs()), used_s
    service.update(cpu_cores=1.5, cpu_cores_limit=8)
    service.wait_for_deployment()
    status, (threads, used_s) = post(service.scoring_uri, 0)
    assert (status, threads) == (200, str(min(2, os.cpu_count() or 1)))
    service.update(cpu_cores=5_000, cpu_cores_limit=5_000)
    service.wait_for_deployment()
    # OpenMP would end the process over threads that it does not get.
    assert post(service.scoring_uri, 0)[1][0] == str(os.cpu_count())
    service.update(cpu_cores=1.5, cpu_cores_limit=8)
    needs = service.container_resource_requirements
    assert (needs.cpu, needs.cpu_limit, needs.memory_in_gb) == (1.5, 8, 0.1)


def test_a_crash_on_one_input_takes_no_other_request_along(scripted: Any) -> None:
    text = "import os\ndef run(data):\n    if data == '0':\n        os._exit(3)\n    return 7\n"
    service = scripted("crashes", text)
    with Load(service.scoring_uri, 1, lambda answer: answer == 7) as load:
        load.wait_for(50)
        for _ in range(4):
            assert post(service.scoring_uri, 0)[0] == 502
        load.wait_for(50)
    assert load.failures == []


def test_ten_thousand_open_connections_keep_nobody_out(scripted: Any) -> None:
    service = scripted("crowded", ECHO)
    port = seen_of(service).port
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 10_200:
        pytest.skip(f"this process may open {most} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lines = []
    try:
        for number in range(10_000):
            line = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
            lines.append(line)
            if number % 10 == 0:
                line.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n[")
        began = time.monotonic()
        assert post(service.scoring_uri, [1]) == (200, [1])
        assert time.monotonic() - began < 5
    finally:
        for line in lines:
            line.close()
    assert post(service.scoring_uri, [1]) == (200, [1])


def test_a_caller_that_does_not_read_its_answers_is_not_answered_without_end(scripted: Any) -> None:
    service = scripted("unread", "def run(data):\n    return 'x' * 1_000_000\n")
    (front,) = fronts(service)
    request = b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n0"
    with socket.create_connection(("127.0.0.1", seen_of(service).port), timeout=1) as line:
        line.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            for _ in range(300):
                line.sendall(request)
                time.sleep(0.002)
        assert post(service.scoring_uri, 0)[0] == 200
        status = Path(f"/proc/{front}/status").read_text()
        peak_kb = next(int(one.split()[1]) for one in status.splitlines() if one.startswith("VmHWM"))
        assert peak_kb < 150_000
    assert post(service.scoring_uri, 0)[0] == 200


def test_request_waits_for_its_turn_no_longer_than_it_may(scripted: Any) -> None:
    text = "import time\ndef run(data):\n    time.sleep(float(data))\n    return 1\n"
    config = AksWebservice.deploy_configuration(num_replicas=1, auth_enabled=False, max_request_wait_time=300)
    service = scripted("busy", text, config)
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(post(service.scoring_uri, 3)))
    thread.start()
    wait_until(lambda: requests.get(service.scoring_uri.replace("/score", "/metrics"), timeout=5).text.count(
        "runyard_in_flight{service=\"busy\"} 2"), "the first is under way")  # fmt: skip
    status, said = post(service.scoring_uri, 0)
    assert (status, said["error"]) == (503, "No replica was free within 300 ms (max_request_wait_time).")
    thread.join()
    assert first == [(200, 1)], "it works for as long as it needs"
    assert post(service.scoring_uri, 0) == (200, 1)


def test_every_request_is_logged_where_that_is_asked_for(scripted: Any) -> None:
    quiet = scripted("quiet", ECHO, AksWebservice.deploy_configuration(auth_enabled=False))
    told = scripted("told", ECHO, AksWebservice.deploy_configuration(auth_enabled=False, enable_app_insights=True))
    for service in (quiet, told):
        assert post(service.scoring_uri, 1) == (200, 1)
    wait_until(lambda: '"path": "/score", "status": 200' in told.get_logs(), "its line is there")
    assert "/score" not in quiet.get_logs()

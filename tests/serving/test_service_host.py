"""The host of services by itself: requests beside its thread, what hangs, what there is no room for."""

import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runyard.compute import service_host
from runyard.compute.service_host import ServiceHost
from runyard.environments.kit import make_kit
from runyard.errors import ServiceException
from runyard.files.processes import identity
from runyard.protocol.services import Revision, Seen, ServiceState, Wanted
from runyard.protocol.wire import dumps
from tests.serving.test_services import post
from tests.serving.test_survive import ECHO, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ServiceHost]:
    """Of a folder of its own; ends what the test has started."""
    made = ServiceHost(tmp_path / "services", "trusted", ())
    yield made
    made.close()
    made.end("one")


@pytest.fixture
def lay_out(tmp_path: Path, host: ServiceHost) -> Any:
    """Prepares the first revision of a service that answers with what it was asked."""
    kit = make_kit(str(tmp_path / "kits")).folder

    def write(service_id: str) -> Wanted:
        folder = host.revision_folder(service_id, 1)
        (folder / "app").mkdir(parents=True)
        (folder / "app" / "score.py").write_text(ECHO)
        plan = {"entry_script": str(folder / "app" / "score.py")}
        variables = {"PATH": os.defpath, "PYTHONPATH": kit}
        told = Revision(1, service_id, service_id, "1", plan, sys.executable, str(folder / "app"), variables)
        (folder / "revision.json").write_text(dumps(told))
        return Wanted(1, 0, "127.0.0.1", 0)

    return write


def test_requests_look_while_supervisors_are_started_and_end(host: ServiceHost) -> None:
    me = identity(os.getpid())
    watched = host.folder("watched")
    watched.mkdir(parents=True)
    (watched / "seen.json").write_text(dumps(Seen(me["pid"], me["start_time"], me["boot_id"], ServiceState.HEALTHY)))
    errors: list[BaseException] = []
    is_over = threading.Event()

    def look() -> None:
        try:
            while not is_over.is_set():
                assert host.watch("watched") is not None
        except (AssertionError, RuntimeError) as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    names = [f"service-{number}" for number in range(25)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for name in names:
            host.tell(name, Wanted(1, 0, "127.0.0.1", 0))  # Its revision was not laid out: it ends by itself.
        for name in names:
            host.end(name)
    finally:
        sys.setswitchinterval(before)
        is_over.set()
        for thread in threads:
            thread.join()
    assert not errors


def test_supervisor_that_hangs_before_its_first_word_is_replaced(
    host: ServiceHost, lay_out: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_host, "START_S", 4.0)
    wanted = lay_out("one")
    host.expect()
    host.tend()
    spare = wait_until(lambda: supervisors("--spare"), "one waits")[0]
    os.kill(spare, signal.SIGSTOP)
    host.tell("one", wanted)
    assert host.is_starting("one")
    host.tell("one", wanted)
    assert os.path.exists(f"/proc/{spare}"), "it has its time"

    def answers() -> Any:
        host.tell("one", wanted)
        seen = host.watch("one")
        return seen if seen is not None and seen.state == ServiceState.HEALTHY else None

    seen = wait_until(answers, "another has taken its place")
    assert (seen.pid != spare, os.path.exists(f"/proc/{spare}")) == (True, False)
    assert post(f"http://127.0.0.1:{seen.port}/score", [1]) == (200, [1])
    assert "has said nothing for 4 s" in host.log_file("one").read_text()


def test_supervisor_that_is_ended_before_its_first_word_is_gone(host: ServiceHost, lay_out: Any) -> None:
    host.tell("one", lay_out("one"))
    (pid,) = supervisors(str(host.folder("one")))
    assert host.end("one")
    assert not os.path.exists(f"/proc/{pid}"), "not even a zombie is left"
    assert not host.is_starting("one")


def test_no_room_for_a_spare_is_a_sentence(host: ServiceHost) -> None:
    host.expect()
    with no_descriptor_left(), pytest.raises(ServiceException, match=r"ahead: .*Too many open files"):
        host.tend()
    host.tend()
    assert wait_until(lambda: supervisors("--spare"), "later there is one")


def supervisors(word: str) -> list[int]:
    """Those that this process has started, with that word in their command."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            found += [int(pid)] if "runyard.serving" in words and word in words else []
    return found


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process may open none meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

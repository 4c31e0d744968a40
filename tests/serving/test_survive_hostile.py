"""Models that mean harm stay in their sandbox, and what they say ends neither front nor supervisor nor server."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest

from runyard.azureml.core import Model, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AksWebservice
from runyard.client.home import home_folder
from runyard.environments.confinement import why_not
from runyard.environments.control_groups import why_not as why_no_groups
from runyard.errors import UserErrorException, WebserviceException
from runyard.serving.front import _check_stored
from tests.own_server import submit_here
from tests.serving.test_services import here, post
from tests.serving.test_survive import folder_of, fronts, scripted, seen_of, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]
__all__ = ["scripted"]

CANARY = "canary-of-a-model"
#: Tries what it may not, and says what went through.
HARM = """
import glob, json, os, signal, socket
def tried(what, act):
    try:
        result = act()
    except BaseException as error:
        return None
    return [what, repr(result)[:200]]
def write(path):
    with open(path, "w") as file:
        file.write("canary")
def connect(port):
    line = socket.create_connection(("127.0.0.1", port), timeout=2)
    line.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    return line.recv(10)
def harm():
    done = []
    for folder in PLACES:
        tried("write", lambda: write(os.path.join(folder, "canary-of-a-model")))
    for path in SECRETS:
        done.append(tried("read", lambda: open(path, "rb").read(20)))
    for port in PORTS:
        done.append(tried("connect", lambda: connect(port)))
    for pid in PIDS:
        done.append(tried("signal", lambda: os.readlink("/proc/%d/exe" % pid)))
        done.append(tried("signal", lambda: os.kill(pid, 0) or open("/proc/%d/cmdline" % pid).read().index(NEEDLE)))
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"):
        done.append(tried("kernel", lambda: open(path, "r+").write("x")))
    for root in glob.glob("/proc/[0-9]*/root"):
        for path in SECRETS + PLACES:
            done.append(tried("escape", lambda: open(root + path).read(10)))
            tried("escape", lambda: write(root + path + "/canary-of-a-model"))
    done.append(tried("remount", lambda: os.system("mount -o remount,rw / 2>/dev/null") == 0 or 1 / 0))
    done.append(tried("chroot", lambda: os.chroot("/")))
    return [one for one in done if one]
"""


@pytest.fixture
def harm(workspace: Workspace, tmp_path: Path) -> str:
    """The text of a module whose harm() tries everything against this test's own server."""
    home = home_folder()
    record = json.loads(next(one for one in home.glob("*.json") if "url" in one.read_text()).read_text())
    port = int(str(record.get("url") or record.get("public_url")).rpartition(":")[2].strip("/"))
    secrets = [str(one) for one in home.rglob("*") if one.is_file() and not {"services", "cache"} & {*one.parts}]
    places = [str(home), str(home / "store"), os.path.expanduser("~"), str(tmp_path), "/", "/etc", "/usr"]
    places += [sys.prefix, str(Path(__file__).parent)]
    given = {"PLACES": places, "SECRETS": secrets, "PORTS": [port], "PIDS": [os.getpid()], "NEEDLE": "pytest"}
    return "".join(f"{name} = {value!r}\n" for name, value in given.items()) + HARM


needs_sandbox = pytest.mark.skipif(bool(why_not()), reason="no bubblewrap here")


@needs_sandbox
def test_a_hostile_script_reaches_nothing(scripted: Any, harm: str, tmp_path: Path) -> None:
    service = scripted("hostile", harm + "\nimport json\ndef run(data):\n    return harm()\n")
    assert post(service.scoring_uri, 0) == (200, [])
    assert canaries(tmp_path) == []


def canaries(tmp_path: Path) -> list[Path]:
    """What models have written where others see it."""
    found = [one for place in (home_folder(), tmp_path) for one in place.rglob(CANARY)]
    places = (Path("/"), Path("/tmp"), Path("/etc"), Path("/usr"), Path.home(), Path(sys.prefix), Path(__file__).parent)
    return [*found, *(place / CANARY for place in places if (place / CANARY).exists())]


#: What a hostile model puts where its compiler should put a compiled model.
MADE = {
    "pipe": "os.mkfifo(made + '/report.json')",
    "link": "os.symlink('/etc/passwd', made + '/report.json')\nos.symlink('/etc/passwd', made + '/program.json')",
    "odd": "json.dump({'compiled': 1, 'speeds_s': 7, 'difference': 'x'}, open(made + '/report.json', 'w'))",
    "deep": "for _ in range(3000):\n    os.mkdir('d' * 200); os.chdir('d' * 200)",
    "large": "os.truncate(os.open(made + '/report.json', os.O_CREAT | os.O_RDWR), 1 << 40)",
    "folder": "os.makedirs(made + '/report.json/program.json')",
}


@needs_sandbox
def test_a_hostile_pickle_is_contained_while_it_is_compiled_and_while_it_is_served(
    workspace: Workspace, harm: str, tmp_path: Path
) -> None:
    texts = {}
    for name, act in MADE.items():
        inner = "\n".join("    " + line for line in ["made = sys.argv[3]", "os.chdir(made)", *act.splitlines()])
        texts[name] = (
            f"{harm}\nimport sys\nif sys.argv[0].endswith('compile.py'):\n"
            "    print('compile-time', harm(), flush=True)\n"
            f"{inner}\n    os._exit(0)\nraise RuntimeError('harm done: %r' % harm())\n"
        )
    training = (
        f"import os, pickle\nclass Bomb:\n    def __init__(self, text):\n        self.text = text\n"
        f"    def __reduce__(self):\n        return exec, (self.text, {{}})\n"
        f"for name, text in {texts!r}.items():\n    os.makedirs('outputs/' + name)\n"
        f"    pickle.dump(Bomb(text), open('outputs/' + name + '/model.pkl', 'wb'))\n"
    )
    run = submit_here(workspace, tmp_path, training)
    run.wait_for_completion()
    services = []
    for name in MADE:
        model = run.register_model(name, f"outputs/{name}/model.pkl", model_framework=Model.Framework.SCIKITLEARN)
        services.append(Model.deploy(workspace, "pickle-" + name, [model]))
    for service in services:
        with pytest.raises(WebserviceException, match=r"harm done: \[\]"):
            service.wait_for_deployment(timeout_sec=60)
        assert "compile-time []" in service.get_logs(), service.get_logs()
        service.delete()
    assert canaries(tmp_path) == []
    assert not list((home_folder() / "cache").rglob(".making-*"))


def test_constants_that_grow_in_memory_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "constants.npz"
    numpy.savez_compressed(path, x=numpy.zeros(10_000_000))
    with pytest.raises(ValueError, match="80000"):
        _check_stored(str(path))
    numpy.savez(path, x=numpy.zeros(1000), y=numpy.ones(3))
    _check_stored(str(path))


#: What a process says instead of an answer; the socket is the one it was started with.
SAY = """
import json, os, socket, struct, sys
line = socket.socket(fileno=int(sys.argv[1]))
def say(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    line.sendall(struct.pack("<IQ", len(text), len(body)) + text + body)
def init():
    pass
def run(data):
    what = json.loads(data)
    if what == "fine":
        return 1
    if what == "ready":
        say({"ready": {"kind": "script", "framework": "x" * 100000}, "took_s": "long"})
    elif what == "twice":
        say({"ready": {"kind": "script", "framework": "x"}, "took_s": 1e308})
    elif what == "list":
        say([1, 2])
    elif what == "deep":
        say(b"[" * 100000)
    elif what == "status":
        say({"id": ID(), "status": "x", "headers": {}})
    elif what == "kind":
        say({"id": ID(), "status": 200, "headers": {"Content-Type": ["a"]}}, b"{}")
    elif what == "continue":
        say({"id": ID(), "status": 100, "headers": {}}, b"{}")
    elif what == "tensors":
        say({"id": ID(), "tensors": [{"name": "x", "dtype": "O", "shape": [1]}]})
    elif what == "headers":
        say({"id": ID(), "status": 200, "headers": {"X-A\\r\\nX-B": "1\\r\\nX-C: 2"}}, b"1")
    elif what == "failed":
        say({"failed": "\\u0001" * 4000, "traceback": "\\u0001" * 20000})
    elif what == "huge":
        line.sendall(struct.pack("<IQ", 10, 1 << 40))
    elif what == "much":
        line.sendall(struct.pack("<IQ", 10, 3 << 30))
        while True:
            line.sendall(bytes(1 << 20))
    os._exit(0)
def ID():
    frame = sys._getframe()
    while frame and frame.f_code.co_name != "_answer":
        frame = frame.f_back
    return frame.f_locals["number"]
"""


def test_whatever_a_models_process_says_only_its_own_request_fails(scripted: Any) -> None:
    service = scripted("garbage", SAY, AksWebservice.deploy_configuration(num_replicas=3, auth_enabled=False))
    supervisor = seen_of(service).pid
    for what in ("ready", "twice", "list", "deep", "status", "kind", "continue", "tensors", "headers", "failed",
                 "huge", "much"):  # fmt: skip
        status, _ = post(service.scoring_uri, what)
        assert status in (200, 502) if what in ("kind", "headers") else status == 502, what
        wait_until(lambda: post(service.scoring_uri, "fine") == (200, 1), f"others are served after {what}")
    assert seen_of(service).pid == supervisor
    front_bytes = max(int(one.split()[1]) for one in Path(f"/proc/{fronts(service)[0]}/status").read_text().splitlines()
                      if one.startswith("VmHWM"))  # fmt: skip
    assert front_bytes < 1_400_000, "kB: an endless answer is given up"


def test_a_script_that_prints_without_end_fills_no_disk(scripted: Any) -> None:
    text = (
        "import os\ndef run(data):\n    for _ in range(300):\n        os.write(1, b'x' * 100_000 + b'\\n')\n"
        "    os.write(1, b'the last line\\n')\n    return 1\n"
    )
    service = scripted("chatty", text)
    assert post(service.scoring_uri, 0) == (200, 1)
    log = folder_of(service) / "log.txt"
    wait_until(lambda: log.stat().st_size < 16 << 20, "the log is cut")
    assert "the last line" in (log.read_text() + (folder_of(service) / "log.1.txt").read_text())


def test_an_entry_script_lies_in_its_folder(workspace: Workspace, script_folder: Any) -> None:
    from runyard.protocol.services import EntryScript, ServiceSpec

    folder = script_folder("def run(data):\n    return 1\n")
    service = Model.deploy(workspace, "beside", [], InferenceConfig("score.py", source_directory=folder,
                                                                   environment=here()))  # fmt: skip
    try:
        snapshot = service._record.spec.entry.snapshot
        for script in ("../x.py", "/etc/passwd", "a/../../x.py"):
            spec = ServiceSpec("elsewhere", entry=EntryScript(script, snapshot))
            with pytest.raises((UserErrorException, WebserviceException)):
                workspace._call("deploy_service", spec)
    finally:
        service.delete()


@pytest.mark.skipif(bool(why_no_groups()), reason="this user may make no control group")
def test_a_model_that_forks_without_end_is_held_and_ends_with_its_request(scripted: Any) -> None:
    text = (
        "import os, time\ndef run(data):\n    if data == '0':\n        return 1\n    while True:\n"
        "        try:\n            if os.fork() == 0:\n                time.sleep(60)\n                os._exit(0)\n"
        "        except OSError as error:\n            time.sleep(60)\n"
    )
    config = AksWebservice.deploy_configuration(num_replicas=1, auth_enabled=False, scoring_timeout_ms=8000)
    service = scripted("bomb", text, config)
    most = [0]
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.2):
            most[0] = max(most[0], sum(one.isdigit() for one in os.listdir("/proc")))

    before = sum(one.isdigit() for one in os.listdir("/proc"))
    thread = threading.Thread(target=look)
    thread.start()
    status, _ = post(service.scoring_uri, 1)
    is_over.set()
    thread.join()
    assert status == 504
    assert 500 < most[0] - before < 1_300
    wait_until(lambda: post(service.scoring_uri, 0) == (200, 1), "it answers again")
    wait_until(lambda: sum(one.isdigit() for one in os.listdir("/proc")) < before + 200, "all have gone")

"""Services whose port, disk, name, environment, compiled model or patience gives out."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from runyard.azureml.core import Environment, Model, Run, Webservice, Workspace
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import LocalWebservice
from runyard.environments.confinement import why_not
from runyard.environments.kit import make_kit
from runyard.protocol.services import Revision, Seen, Wanted
from runyard.protocol.wire import dumps, loads
from tests.environments.packages import make_waiting_source, source_of
from tests.own_server import own_server, submit_here
from tests.serving.test_services import DIGITS, get, post
from tests.serving.test_survive import ECHO, below, folder_of, fronts, scripted, seen_of, wait_until
from tests.serving.test_survive_server import NEVER, begin, kill_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]
__all__ = ["scripted"]


def listen_on(port: int) -> socket.socket:
    """As another program, as soon as the service's own processes have let go of it."""
    found: list[socket.socket] = []

    def is_mine() -> bool:
        try:
            found.append(socket.create_server(("127.0.0.1", port)))
        except OSError:
            return False
        return True

    wait_until(is_mine, f"port {port} is free")
    return found[0]


def test_ports_that_others_took_while_nobody_watched_are_told_or_given_up(
    workspace: Workspace, script_folder: Any
) -> None:
    folder = script_folder(ECHO)
    free = begin(workspace, folder, "any-port")
    free.wait_for_deployment()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    asked = begin(workspace, folder, "asked-port", deployment_config=LocalWebservice.deploy_configuration(port=port))
    asked.wait_for_deployment()
    before = {one.name: seen_of(one) for one in (free, asked)}
    kill_server()
    for seen in before.values():
        os.kill(seen.pid, 9)
    with listen_on(before["any-port"].port), listen_on(port):
        free.update_deployment_state()  # By the next server.
        wait_until(lambda: seen_of(free).pid != before["any-port"].pid, "another supervisor")
        wait_until(lambda: seen_of(free).state == "Healthy", "it answers elsewhere")
        free.update_deployment_state()
        assert seen_of(free).port != before["any-port"].port
        assert free.run("[1]") == [1]

        def has_failed() -> bool:
            asked.update_deployment_state()
            return bool(asked.state in ("Failed", "failed"))

        wait_until(has_failed, "its port is told")
        assert f"Port {port} cannot be listened on: Address already in use." in str(asked.error)
    free.delete()
    asked.delete()


def test_a_service_is_deleted_while_its_environment_is_being_built(
    script_folder: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gate = tmp_path_factory.mktemp("gate")
    make_waiting_source(gate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_TEST_GATE", str(gate))
        with own_server(tmp_path_factory.mktemp("building-home")):
            here = Workspace.create("building", exist_ok=True)
            environment = Environment("waits")
            environment.python.conda_dependencies = CondaDependencies.create(
                python_version="{}.{}".format(*sys.version_info[:2]), pip_packages=[*source_of(gate), "waits==1.0"]
            )
            config = InferenceConfig("score.py", source_directory=script_folder(ECHO), environment=environment)
            service = Model.deploy(here, "unfinished", [], config)
            wait_until(lambda: (gate / "started").exists(), "its environment is being built")
            folder = folder_of(service)
            began = time.monotonic()
            service.delete()
            assert time.monotonic() - began < 10, "nobody waits for the build"
            assert "unfinished" not in here.webservices
            assert not folder.exists()
            (gate / "go").touch()
            again = Model.deploy(here, "unfinished", [], config)
            again.wait_for_deployment(timeout_sec=60)
            assert again.run("[1]") == [1], "what was built is used by the next one"
            assert not folder.exists(), "nothing of the deleted one comes back"
            again.delete()


#: Puts constants where its compiler should, which are half a gigabyte in memory.
BOMB = """
import json, os, sys, zipfile
if sys.argv[0].endswith('compile.py'):
    made = sys.argv[3]
    with zipfile.ZipFile(made + '/constants.npz', 'w', zipfile.ZIP_DEFLATED) as file:
        with file.open('x.npy', 'w', force_zip64=True) as entry:
            for _ in range(32):
                entry.write(bytes(16 << 20))
    json.dump({'compiled': True}, open(made + '/report.json', 'w'))
    facts = {'kind': 'rows', 'framework': 'x'}
    json.dump({'facts': facts, 'steps': [], 'results': {}}, open(made + '/program.json', 'w'))
    os._exit(0)
raise RuntimeError('the original is loaded')
"""


@pytest.mark.skipif(bool(why_not()), reason="no bubblewrap here")
def test_constants_that_would_fill_the_memory_are_not_read(workspace: Workspace, tmp_path: Path) -> None:
    training = (
        "import os, pickle\nclass Bomb:\n    def __reduce__(self):\n"
        f"        return exec, ({BOMB!r}, {{}})\n"
        "pickle.dump(Bomb(), open('outputs/model.pkl', 'wb'))\n"
    )
    run = submit_here(workspace, tmp_path, training)
    run.wait_for_completion()
    model = run.register_model("constants", "outputs/model.pkl", model_framework=Model.Framework.SCIKITLEARN)
    service = Model.deploy(workspace, "constants", [model])
    most = 0

    def is_over() -> bool:
        nonlocal most
        most = max([most, *(int(one.split()[1]) for one in _front_status(service) if one.startswith("VmHWM"))])
        service.update_deployment_state()
        return bool(service.state == "Failed")

    wait_until(is_over, "it fails")
    assert "constants have 536870912 bytes, and their file is smaller" in str(service.error)
    assert 0 < most < 300_000, "kB"
    service.delete()


def _front_status(service: Webservice) -> list[str]:
    try:
        return [
            line for pid in fronts(service) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        ]  # fmt: skip
    except OSError:
        return []


def test_a_model_with_an_odd_name_is_found_by_it(workspace: Workspace, trained: dict[str, Model]) -> None:
    name = "Prüfung der Ziffern 1.0 - 数字"
    run = Run.get(workspace, trained["support"].run_id)
    model = run.register_model(name, "outputs/support/model.joblib", model_framework=Model.Framework.SCIKITLEARN)
    service = Model.deploy(workspace, "odd-name", [model])
    service.wait_for_deployment(timeout_sec=120)
    base = service.scoring_uri.rpartition("/")[0]
    assert post(base + "/score", {"data": DIGITS[:3].tolist()})[0] == 200
    path = f"/v2/models/{quote(name)}"
    assert json.loads(get(base + path)[1])["name"] == name
    assert json.loads(get(base + f"/v1/models/{quote(name)}/versions/1/metadata")[1])["model_spec"]["name"] == name
    status, answer = post(base + path + "/infer", {"inputs": []})
    assert (status, '"inputs"' in answer["error"]) == (400, True)
    status, answer = post(base + "/v2/models/another/infer", {"inputs": []})
    assert (status, name in answer["error"]) == (404, True)
    assert b'service="odd-name",status="200"' in get(base + "/metrics")[1]
    service.delete()


#: A supervisor that is less patient than those of services.
IMPATIENT = """
import sys
import runyard.serving.group
from runyard.serving.__main__ import main
runyard.serving.group.LOAD_S = 3.0
sys.exit(main(sys.argv[1:]))
"""


def test_a_model_that_takes_too_long_to_load_fails_with_a_sentence_and_is_ended(tmp_path: Path) -> None:
    revision = tmp_path / "revisions" / "1"
    (revision / "app").mkdir(parents=True)
    (revision / "app" / "score.py").write_text(NEVER)
    kit = make_kit(str(tmp_path / "kits")).folder
    variables = {"PATH": os.defpath, "PYTHONPATH": kit}
    plan = {"entry_script": str(revision / "app" / "score.py")}
    told = Revision(1, "slow", "slow", "1", plan, sys.executable, str(revision / "app"), variables)
    (revision / "revision.json").write_text(dumps(told))
    (tmp_path / "wanted.json").write_text(dumps(Wanted(1, 0, "127.0.0.1", 0)))
    supervisor = subprocess.Popen([sys.executable, "-c", IMPATIENT, str(tmp_path)])
    try:

        def seen() -> Any:
            path = tmp_path / "seen.json"
            return loads(Seen, path.read_text()) if path.exists() else None

        wait_until(lambda: below(supervisor.pid, "-m runyard.scoring "), "its model is being loaded")
        wait_until(lambda: seen() is not None and seen().failed_revision == 1, "it fails")
        assert (seen().state, seen().error) == ("Failed", "The model was not loaded within 3 s.")
        wait_until(lambda: not below(supervisor.pid, "runyard"), "its processes end")
        assert "The model was not loaded within 3 s." in (tmp_path / "log.txt").read_text()
        # Its callers hear that it has failed, and wait for nothing; who says nothing stays for two seconds.
        port = seen().port
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        for body in (1, "x" * 3_000_000):
            status, said = post(f"http://127.0.0.1:{port}/score", body)
            assert (status, "has failed" in said["error"]) == (503, True)
        for line in silent:
            line.settimeout(20)
            assert line.recv(100).startswith(b"HTTP/1.1 503 ")
            line.close()
    finally:
        supervisor.terminate()
        supervisor.wait(20)

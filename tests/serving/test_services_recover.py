"""Services that were well and are not: files and environments that are lost, and a server short of something."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Environment, Model, Webservice, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AksWebservice
from runyard.client.home import home_folder
from runyard.errors import WebserviceException
from runyard.protocol.scoring import PROGRAM_FORMAT
from tests.serving.conftest import Deploy
from tests.serving.test_services import DIGITS, LABELS, here, post
from tests.serving.test_spare import server_pid
from tests.serving.test_survive import ECHO, folder_of, fronts, replicas, scripted, seen_of, wait_until
from tests.serving.test_survive_server import NEVER, SLOW_START, begin, kill_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]
__all__ = ["scripted"]


def has_state(service: Webservice, state: str) -> bool:
    service.update_deployment_state()
    return bool(service.state == state)


def of_script(folder: str) -> InferenceConfig:
    return InferenceConfig("score.py", source_directory=folder, environment=here())


def bare_python(folder: Path) -> Path:
    """An interpreter of its own that has the standard library alone."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


def said_by_server(words: str) -> int:
    return (home_folder() / "server.log").read_text().count(words)


def test_service_that_cannot_be_loaded_any_more_is_failed_until_it_can(scripted: Any) -> None:
    service = scripted("late", ECHO)
    script = folder_of(service) / "revisions" / "1" / "app" / "score.py"
    script.write_text("raise ValueError('no longer')\n")
    before = seen_of(service).pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: has_state(service, "Failed"), "it is shown as it is")
    assert "no longer" in str(service.error)
    with pytest.raises(WebserviceException, match="no longer"):
        service.wait_for_deployment()
    assert post(service.scoring_uri, [1])[0] == 503
    script.write_text(ECHO)
    # The next server tries again, once.
    os.kill(seen_of(service).pid, signal.SIGKILL)
    kill_server()
    wait_until(lambda: has_state(service, "Healthy"), "it answers again")
    service.wait_for_deployment()
    assert service.error is None
    assert post(service.scoring_uri, [1]) == (200, [1])


def test_service_whose_environment_is_gone_is_failed_once(
    workspace: Workspace, script_folder: Any, tmp_path: Path
) -> None:
    interpreter = bare_python(tmp_path / "python")
    environment = Environment("of-mine")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = str(interpreter)
    config = InferenceConfig("score.py", source_directory=script_folder(ECHO), environment=environment)
    service = Model.deploy(workspace, "homeless", [], config)
    service.wait_for_deployment()
    interpreter.unlink()
    os.kill(seen_of(service).pid, signal.SIGKILL)
    wait_until(lambda: has_state(service, "Failed"), "it is shown as it is")
    assert str(interpreter) in str(service.error)
    lines = service.get_logs()
    time.sleep(2.5)  # Two looks of the server.
    assert service.get_logs() == lines, "it is left alone"
    service.update(
        inference_config=InferenceConfig("score.py", source_directory=script_folder(ECHO), environment=here())
    )
    service.wait_for_deployment()
    assert post(service.scoring_uri, [1]) == (200, [1])
    service.delete()


def test_error_is_that_of_the_last_update(scripted: Any, script_folder: Any) -> None:
    service = scripted("once-wrong", ECHO)
    service.update(inference_config=of_script(script_folder("raise ValueError('broken')\n" + ECHO)))
    with pytest.raises(WebserviceException, match="broken"):
        service.wait_for_deployment()
    service.update(tags={"owner": "us"})
    service.wait_for_deployment()
    assert service.error is None


def test_update_of_a_failed_service_is_not_failed_before_it_was_tried(workspace: Workspace, script_folder: Any) -> None:
    service = begin(workspace, script_folder("raise ValueError('broken')\n" + ECHO), "failed-first")
    with pytest.raises(WebserviceException, match="broken"):
        service.wait_for_deployment()
    for number in range(3):
        service = begin(
            workspace, script_folder(f"def run(data):\n    return {number}\n"), "failed-first", overwrite=True
        )
        service.wait_for_deployment()
        assert service.run("0") == number
    service.delete()


def test_server_without_descriptors_goes_on_with_services_later(
    scripted: Any, workspace: Workspace, script_folder: Any
) -> None:
    service = begin(workspace, script_folder(SLOW_START), "short")
    wait_until(lambda: replicas(service), "its supervisor is taken, and no other one waits")
    server = server_pid()
    before = resource.prlimit(server, resource.RLIMIT_NOFILE)
    try:
        # Enough to see that the service has its model, too few for a supervisor that waits: one or two by turns.
        until = time.monotonic() + 9
        while time.monotonic() < until:
            for free in (1, 2):
                used = {int(one) for one in os.listdir(f"/proc/{server}/fd")}
                unused = [one for one in range(max(used) + 9) if one not in used]
                resource.prlimit(server, resource.RLIMIT_NOFILE, (unused[free], before[1]))
                time.sleep(0.7)
    finally:
        resource.prlimit(server, resource.RLIMIT_NOFILE, before)
    service.wait_for_deployment(timeout_sec=30)
    assert scripted("afterwards", ECHO).run("[1]") == [1]
    service.delete()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_service_that_takes_its_time_costs_the_server_little(workspace: Workspace, script_folder: Any) -> None:
    service = begin(workspace, script_folder(NEVER), "takes-its-time")
    wait_until(lambda: replicas(service), "its model is being loaded")
    time.sleep(4)
    server = server_pid()
    before = cpu_s(server)
    time.sleep(5)
    used = cpu_s(server) - before
    service.delete()
    assert used < 0.35, f"{used} s of 5 s"


def test_same_trouble_is_logged_once_a_minute_and_is_over_once_it_is(scripted: Any, script_folder: Any) -> None:
    service = scripted("troubled", ECHO)
    wanted = folder_of(service) / "wanted.json"
    before = said_by_server("service troubled cannot be looked after")
    while not wanted.is_dir():
        # The server writes it again where it finds none, which it may between the two.
        wanted.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):
            wanted.mkdir()
    config = InferenceConfig(
        "score.py", source_directory=script_folder("def run(data):\n    return 2\n"), environment=here()
    )
    service.update(inference_config=config)
    wait_until(lambda: said_by_server("service troubled cannot be looked after") > before, "it is logged")
    time.sleep(2.5)
    assert said_by_server("service troubled cannot be looked after") == before + 1
    wanted.rmdir()
    service.wait_for_deployment(timeout_sec=30)
    assert post(service.scoring_uri, [1]) == (200, 2)


def begin_anew(service: Webservice, what: str) -> None:
    """Kill its supervisor, and wait until the next one has it Healthy."""
    before = seen_of(service).pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: seen_of(service).pid != before and seen_of(service).state == "Healthy", what)


def use_only_compiled(service: Webservice, interpreter: Path) -> Path:
    """Give a service that was compiled before the interpreter of a server without the framework; the program's folder.

    Its supervisor is another one then, which has that interpreter.
    """
    path = folder_of(service) / "revisions" / "1" / "revision.json"
    told = json.loads(path.read_text())
    assert told["needs_program"] is True
    path.write_text(json.dumps({**told, "interpreter": str(interpreter), "readable": [str(interpreter.parents[1])]}))
    begin_anew(service, "it needs no framework")
    return Path(told["scoring"]["compiled_folder"])


def test_compiled_service_whose_program_is_lost_is_prepared_anew(
    trained: dict[str, Model], deploy: Deploy, tmp_path: Path
) -> None:
    deploy("compiles", [trained["forest"]])
    service = deploy("compiled-before", [trained["forest"]])
    program = use_only_compiled(service, bare_python(tmp_path / "python"))
    shutil.rmtree(program)
    begin_anew(service, "it is there again")
    assert service.run(json.dumps({"data": DIGITS[:2].tolist()}))["predict"] == LABELS[:2].tolist()


def test_compiled_service_of_another_format_is_prepared_anew(
    trained: dict[str, Model], deploy: Deploy, tmp_path: Path
) -> None:
    deploy("compiles", [trained["forest"]])
    service = deploy("compiled-otherwise", [trained["forest"]])
    path = folder_of(service) / "revisions" / "1" / "revision.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "program_format": 0}))
    begin_anew(service, "it is there again")
    # As it was, or as a revision of its own where the server has looked before.
    path = folder_of(service) / "revisions" / str(seen_of(service).revision) / "revision.json"
    assert json.loads(path.read_text())["program_format"] == PROGRAM_FORMAT


def test_front_that_misses_its_program_gets_a_revision_that_needs_none(
    trained: dict[str, Model], deploy: Deploy, tmp_path: Path
) -> None:
    deploy("compiles", [trained["forest"]])
    service = deploy("compiled-once", [trained["forest"]])
    program = use_only_compiled(service, bare_python(tmp_path / "python"))
    shutil.rmtree(program)
    (front,) = fronts(service)
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: seen_of(service).revision == 2, "a revision that has the framework")
    wait_until(lambda: has_state(service, "Healthy"), "it is shown so")
    assert service.run(json.dumps({"data": DIGITS[:2].tolist()}))["predict"] == LABELS[:2].tolist()
    service.wait_for_deployment()
    assert "compiled model is gone from the cache" in service.get_logs()


def test_files_of_old_revisions_go_and_a_rollback_needs_none(scripted: Any, script_folder: Any) -> None:
    config = AksWebservice.deploy_configuration(scoring_timeout_ms=1000, auth_enabled=False)
    service = scripted("often", "def run(data):\n    return 1\n", config)
    for number in (2, 3, 4):
        service.update(inference_config=of_script(script_folder(f"def run(data):\n    return {number}\n")))
        service.wait_for_deployment()
    service.update(inference_config=of_script(script_folder("raise ValueError('broken')\n" + ECHO)))
    with pytest.raises(WebserviceException, match="broken"):
        service.wait_for_deployment()
    folder = folder_of(service) / "revisions"
    assert {one.name for one in folder.iterdir()} == {"1", "2", "3", "4", "5"}
    wait_until(lambda: {one.name for one in folder.iterdir()} == {"3", "4"}, "what is not needed goes")
    assert service.run("0") == 4
    shutil.rmtree(folder / "3")
    service.rollback()
    service.wait_for_deployment()
    assert service.run("0") == 3

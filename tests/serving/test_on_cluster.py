"""Services whose replicas are runs of a cluster, on a real one: asked, disturbed, updated, deleted. In this order."""

import hmac
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from runyard.azureml.core import Experiment, Model, Webservice
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AksWebservice
from runyard.errors import WebserviceException
from runyard.protocol.services import JoinedReplicas, ServiceReplica
from runyard.scoring import frames
from runyard.sdk.session import current_server
from tests.engines.engines import TARGET, Engine, make_engine, wait_until, with_prefix
from tests.own_server import submit_here
from tests.serving.conftest import TRAINING
from tests.serving.test_services import here
from tests.serving.test_survive import Load, below, seen_of
from tests.serving.test_survive_server import kill_server

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(shutil.which("slurmctld") is None, reason="tests/system-packages.sh installs Slurm"),
]

DIGITS, LABELS = load_digits(return_X_y=True)
ROWS = {"data": DIGITS[:5].tolist()}
#: Answers by the model, in the digits' own words, and says where.
SCRIPT = """
import json, os, time
from azureml.core.model import Model

def init():
    global model
    import joblib
    model = joblib.load(Model.get_model_path("support"))

def run(text):
    if text == '"hang"':
        time.sleep(3600)
    return {"predict": model.predict(json.loads(text)["data"]).tolist(), "by": os.environ["AZUREML_RUN_ID"]}
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with make_engine("slurm", tmp_path_factory.mktemp("slurm")) as found:
        yield found


@pytest.fixture(scope="module")
def model(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Model:
    run = submit_here(engine.workspace, tmp_path_factory.mktemp("training"), TRAINING)
    run.wait_for_completion()
    kind = Model.Framework.SCIKITLEARN
    return run.register_model("support", "outputs/support/model.joblib", model_framework=kind)


@pytest.fixture(scope="module")
def service(engine: Engine, model: Model) -> Webservice:
    """One of two replicas, which both answer."""
    words = ["deploy", "there", "--model", model.id, "--target", TARGET, "--replicas", "2", "--kind", "aks"]
    assert "there is Healthy at http://127.0.0.1:" in runyard(*words, "--no-auth", "--timeout", "15")
    found = engine.workspace.webservices["there"]
    wait_until(lambda: len(ready_of(found)) == 2, "both answer")
    return found


def runyard(*words: str) -> str:
    """What a command prints."""
    program = [sys.executable, "-m", "runyard.cli", *words, "--workspace", "engines"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


def replicas_of(service: Webservice) -> tuple[ServiceReplica, ...]:
    service.update_deployment_state()
    return service._record.replica_runs


def ready_of(service: Webservice) -> set[str]:
    return {one.run_id for one in replicas_of(service) if one.is_ready}


def joined_of(service: Webservice) -> JoinedReplicas:
    return seen_of(service).elsewhere[0]


def script_of(run_id: str) -> int:
    """The process of a run that holds the model."""
    for pid in with_prefix("AZUREML_RUN_ID", run_id):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"replica.py" in words and b"bwrap" not in words:
            return pid
    raise AssertionError(f"no process of {run_id}")


def is_right(answer: Any) -> bool:
    return bool(answer["predict"] == LABELS[:5].tolist())


def test_replicas_are_runs_of_the_cluster_which_answer(engine: Engine, service: Webservice) -> None:
    answer = service.run(json.dumps({"data": DIGITS[:200].tolist()}))
    assert sum(int(a == b) for a, b in zip(answer["predict"], LABELS[:200], strict=True)) >= 190
    assert (service.num_replicas, service._record.spec.deployment.target) == (2, TARGET)
    runs = {run.id: run for run in Experiment(engine.workspace, "services").get_runs()}
    assert set(runs) == ready_of(service)
    for run in runs.values():
        assert run.get_status() == "Running"
        assert run.display_name == "a replica of the service there, revision 1"
        assert run.id.startswith("service-there_")
        # Nothing that it proves itself with is to be seen by those who see runs.
        assert set(run.properties) == {"runyard.service", "runyard.service_revision"}
    shown = runyard("service", "show", "there")
    for run_id in runs:
        assert re.search(rf"^Run {run_id} +revision 1, answers$", shown, re.MULTILINE), shown
        assert re.search(rf"^{run_id} +services +Running +{TARGET} ", runyard("run", "list"), re.MULTILINE)
    assert len(engine.slurm.run("squeue", "--noheader", "--states=R").splitlines()) == 2  # type: ignore[union-attr]
    assert f"the original model serves: its replicas are runs of '{TARGET}'" in service.get_logs()


def proofs(service: Webservice) -> list[Callable[[bytes], list[bytes]]]:
    """What strangers say once they have heard the front's word."""
    run_id = next(iter(ready_of(service)))

    def said(header: dict[str, Any], body: bytes = b"") -> list[bytes]:
        return frames.encode(header, [body] if body else [])

    def guess(nonce: bytes) -> list[bytes]:
        word = json.loads(nonce)["nonce"]
        return said({"run": run_id, "proof": hmac.new(b"", word.encode(), "sha256").hexdigest()})

    return [
        guess,
        lambda _: said({"run": run_id, "proof": ""}),
        lambda _: said({"run": ["nobody"], "proof": "\udc80\u00e9"}),
        lambda _: said({"run": run_id}, b"x" * 100),
        lambda _: [b"[" * 50_000],
        lambda _: [struct.pack("<IQ", 1 << 27, 0)],
        lambda _: [struct.pack("<IQ", 2, 0) + b"[]"],
        lambda _: [b"GET / HTTP/1.1\r\n\r\n"],
    ]


def test_who_has_not_the_secret_is_let_go_and_harms_nobody(service: Webservice) -> None:
    port = joined_of(service).port
    before = joined_of(service).joined
    silent = socket.create_connection(("127.0.0.1", port), timeout=30)
    for proof in proofs(service):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            size, _ = struct.unpack("<IQ", line.recv(12, socket.MSG_WAITALL))
            nonce = line.recv(size, socket.MSG_WAITALL)
            try:
                line.sendall(b"".join(bytes(one) for one in proof(nonce)))
                assert line.recv(100) == b""
            except ConnectionResetError:
                pass
        assert is_right(service.run(json.dumps(ROWS)))
    silent.recv(4096)
    try:
        assert silent.recv(100) == b""
    except ConnectionResetError:
        pass
    silent.close()
    assert joined_of(service).joined == before
    assert "a connection where replicas come was refused: its proof is wrong" in service.get_logs()


def test_no_other_run_hears_how_to_come_in(engine: Engine, service: Webservice, tmp_path: Path) -> None:
    script = (
        "import os\nfrom runyard.sdk.session import current_server\n"
        "names = {'workspace': os.environ['AZUREML_ARM_WORKSPACE_NAME']}\n"
        "from azureml.core import Run\nrun = Run.get_context()\n"
        "run.add_properties({'runyard.service': 'there', 'runyard.service_revision': '1'})\n"
        f"for one in (run.id, {next(iter(ready_of(service)))!r}):\n"
        "    try:\n        current_server().call('read_replica_plan', run_id=one, **names)\n"
        "        run.log('refused', 'no')\n"
        "    except Exception as error:\n        run.log('refused', type(error).__name__)\n"
    )
    run = submit_here(engine.workspace, tmp_path, script)
    run.wait_for_completion()
    assert run.get_metrics()["refused"] == ["NotFoundError", "PermissionDeniedError"]


def test_replica_that_is_killed_is_replaced_and_the_others_answer(engine: Engine, service: Webservice) -> None:
    before = ready_of(service)
    gone = sorted(before)[0]
    with Load(service.scoring_uri, ROWS, is_right) as load:
        os.kill(script_of(gone), signal.SIGKILL)
        wait_until(lambda: len(ready_of(service) - {gone}) == 2, "another has come in its place")
        load.wait_for(20)
    # What it worked at is lost with it, and nothing else.
    assert len(load.failures) <= 1, load.failures
    assert len(ready_of(service) - before) == 1
    (ended,) = (run for run in Experiment(engine.workspace, "services").get_runs() if run.id == gone)
    assert ended.get_status() == "Failed"


def test_server_that_is_killed_finds_its_replicas_again(engine: Engine, service: Webservice) -> None:
    before = ready_of(service)
    kill_server()
    with Load(service.scoring_uri, ROWS, is_right) as load:
        load.wait_for(20)
        assert ready_of(service) == before
        load.wait_for(40)
    assert load.failures == []
    assert {one.run_id for one in replicas_of(service)} == before


def test_front_that_is_killed_gets_them_back_without_the_server(service: Webservice) -> None:
    before = ready_of(service)
    supervisor = seen_of(service).pid
    (front,) = below(supervisor, "runyard.serving.front")
    current_server().call("stop_server")
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: below(supervisor, "runyard.serving.front") not in ([], [front]), "there is another front", 20)
    wait_until(lambda: set(joined_of(service).ready) == before, "they are back", 20)
    assert is_right(service.run(json.dumps(ROWS)))
    assert ready_of(service) == before


def test_supervisor_that_is_killed_gets_the_same_replicas_back(service: Webservice) -> None:
    before = ready_of(service)
    os.kill(seen_of(service).pid, signal.SIGKILL)
    wait_until(lambda: service._record.replicas == 0 or ready_of(service) != before, "they have lost their front")
    wait_until(lambda: ready_of(service) == before, "they are back")
    assert is_right(service.run(json.dumps(ROWS)))


def test_update_to_a_script_fails_no_request_where_every_node_is_taken(
    engine: Engine, service: Webservice, tmp_path: Path
) -> None:
    before = ready_of(service)
    (tmp_path / "score.py").write_text(SCRIPT)
    config = InferenceConfig("score.py", source_directory=str(tmp_path), environment=here())
    with Load(service.scoring_uri, ROWS, is_right) as load:
        load.wait_for(5)
        service.update(inference_config=config)
        wait_until(lambda: "Waits in Slurm's queue" in replicas_reason(service), "the service says what it waits for")
        service.wait_for_deployment(timeout_sec=120)
        wait_until(lambda: len(ready_of(service) - before) == 2, "both replicas are of the new revision")
        wait_until(lambda: not ready_of(service) & before, "the old ones have gone")
        load.wait_for(20)
    assert load.failures == []
    after = ready_of(service)
    assert not before & after
    assert service.run(json.dumps(ROWS))["by"] in after
    ended = {run.id: run.get_status() for run in Experiment(engine.workspace, "services").get_runs()}
    # Those that were let go have ended well; one that the last word did not reach was canceled.
    assert {ended[one] for one in before} <= {"Completed", "Canceled"}


def replicas_reason(service: Webservice) -> str:
    service.update_deployment_state()
    return service._record.reason


def test_replica_that_hangs_is_canceled_and_another_takes_its_place(engine: Engine, service: Webservice) -> None:
    before = ready_of(service)
    with pytest.raises(WebserviceException, match=r"504[\s\S]*has not answered for 15 s"):
        service.run('"hang"')
    assert is_right(service.run(json.dumps(ROWS)))
    wait_until(lambda: len(ready_of(service)) == 2 and ready_of(service) != before, "another has come")
    (gone,) = before - ready_of(service)
    (ended,) = (run for run in Experiment(engine.workspace, "services").get_runs() if run.id == gone)
    ended.wait_for_completion(raise_on_error=False)
    assert ended.get_status() == "Canceled"


def test_update_that_fails_there_says_why_and_leaves_what_answers(
    engine: Engine, service: Webservice, tmp_path: Path
) -> None:
    before = ready_of(service)
    (tmp_path / "score.py").write_text("def init():\n    open('/nowhere/at/all')\n\ndef run(data):\n    return 1\n")
    config = InferenceConfig("score.py", source_directory=str(tmp_path), environment=here())
    service.update(inference_config=config)
    with pytest.raises(WebserviceException, match=r"line 2, in init[\s\S]*No such file"):
        service.wait_for_deployment(timeout_sec=120)
    assert is_right(service.run(json.dumps(ROWS)))
    wait_until(lambda: len(ready_of(service)) == 2, "the one that gave its place up has another")
    assert before & ready_of(service)
    assert {one.revision for one in replicas_of(service)} == {2}


def test_service_that_is_deleted_leaves_no_run(engine: Engine, service: Webservice) -> None:
    service.delete()
    assert "there" not in engine.workspace.webservices
    known = [run.get_status() for run in Experiment(engine.workspace, "services").get_runs()]
    assert set(known) <= {"Completed", "Canceled", "Failed"}
    assert engine.slurm is not None
    slurm = engine.slurm
    wait_until(lambda: not slurm.run("squeue", "--noheader").strip(), "nothing is left in the queue")


#: Takes as many bytes as it is asked for.
TAKES = """
import json
def run(text):
    return len(bytearray(json.loads(text)))
"""


def test_replica_that_takes_too_much_memory_is_ended_and_replaced(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(TAKES)
    environment = here()
    environment.environment_variables["AML_CORS_ORIGINS"] = "https://my.site"
    config = InferenceConfig("score.py", source_directory=str(tmp_path), environment=environment)
    held = AksWebservice.deploy_configuration(
        auth_enabled=False, num_replicas=1, memory_gb=0.2, memory_gb_limit=0.4, autoscale_enabled=False
    )
    service = Model.deploy(engine.workspace, "held", [], config, held, engine.workspace.compute_targets[TARGET])
    service.wait_for_deployment(timeout_sec=120)
    assert service.run("1000000") == 1_000_000
    asked = urllib.request.Request(service.scoring_uri, b"1", {"Origin": "https://my.site"})
    with urllib.request.urlopen(asked) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "https://my.site"
    (gone,) = ready_of(service)
    with pytest.raises(WebserviceException, match="502"):
        service.run("900000000")
    wait_until(lambda: len(ready_of(service) - {gone}) == 1, "another has come in its place")
    assert service.run("1000000") == 1_000_000
    (ended,) = (run for run in Experiment(engine.workspace, "services").get_runs() if run.id == gone)
    ended.wait_for_completion(raise_on_error=False)
    assert "of memory, as much as it may have on a node" in ended.get_details()["error"]["error"]["message"]
    service.delete()


ANSWERS = """
import json, os, time
def run(text):
    time.sleep(0.05)
    return [json.loads(text), os.environ.get("AZUREML_RUN_ID")]
"""


@pytest.fixture(scope="module")
def moving(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Webservice]:
    """Puts a service onto the cluster, with one replica or two by what is asked of it, or back onto this host."""
    folder = tmp_path_factory.mktemp("moving")
    (folder / "score.py").write_text(ANSWERS)
    config = InferenceConfig("score.py", source_directory=str(folder), environment=here())
    scaled = AksWebservice.deploy_configuration(
        autoscale_enabled=True, autoscale_min_replicas=1, autoscale_max_replicas=2, autoscale_refresh_seconds=1,
        auth_enabled=False,
    )  # fmt: skip
    scaled.deployment = replace(scaled.deployment, autoscale=replace(scaled.deployment.autoscale, refresh_s=0.2))

    def move(is_there: bool) -> Webservice:
        target = engine.workspace.compute_targets[TARGET] if is_there else None
        return Model.deploy(engine.workspace, "moving", [], config, scaled, target, overwrite=True)

    return move


def runs_of(engine: Engine, name: str) -> dict[str, str]:
    found = Experiment(engine.workspace, "services").get_runs(properties={"runyard.service": name})
    return {run.id: run.get_status() for run in found}


def test_service_moves_to_a_cluster_while_the_server_is_killed_again_and_again(
    engine: Engine, moving: Callable[[bool], Webservice]
) -> None:
    service = moving(False)
    service.wait_for_deployment()
    assert service.run("1") == [1, None]
    with Load(service.scoring_uri, 7, lambda answer: answer[0] == 7) as load:
        moving(True)
        kill_server()
        wait_until(lambda: runs_of(engine, "moving"), "its run is submitted")
        kill_server()
        service.update_deployment_state()
        kill_server()
        service.wait_for_deployment(timeout_sec=120)
        assert service.run("2")[1] in runs_of(engine, "moving")
        wait_until(lambda: len(ready_of(service)) == 2, "there are as many as so many callers need")
        load.wait_for(20)
    assert load.failures == []
    # One to begin with, and one more: none was started twice.
    assert len(runs_of(engine, "moving")) == 2
    wait_until(lambda: sorted(runs_of(engine, "moving").values()) == ["Completed", "Running"], "one is enough now")


def test_service_moves_back_to_this_host(engine: Engine, moving: Callable[[bool], Webservice]) -> None:
    service = engine.workspace.webservices["moving"]
    with Load(service.scoring_uri, 7, lambda answer: answer[0] == 7) as load:
        moving(False)
        service.wait_for_deployment()
        wait_until(lambda: set(runs_of(engine, "moving").values()) <= {"Completed", "Canceled"}, "no run is left")
        load.wait_for(20)
    assert load.failures == []
    assert service.run("3") == [3, None]
    service.delete()

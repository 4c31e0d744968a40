"""Services from deployment to deletion, on a real server, by v1's own calls."""

import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from runyard.azureml.core import Environment, Model, Webservice, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.webservice import AciWebservice, AksWebservice, LocalWebservice
from runyard.errors import UserErrorException, WebserviceException
from tests.engines.engines import wait_until
from tests.serving.conftest import Deploy

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("serving")]

DIGITS, LABELS = load_digits(return_X_y=True)


def here() -> Environment:
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    return environment


def get(url: str, **headers: str) -> tuple[int, bytes]:
    return ask(urllib.request.Request(url, headers=headers))


def post(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, content = ask(urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}))
    return status, json.loads(content)


def ask(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_model_is_deployed_without_code_compiled_asked_and_deleted(
    workspace: Workspace, trained: dict[str, Model], deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Model.deploy(workspace, "digits-service", [trained["linear"]])
    deploy_output = service.wait_for_deployment(show_output=True)
    assert deploy_output is None
    assert 'ACI service creation operation finished, operation "Succeeded"' in capsys.readouterr().out
    assert isinstance(service, AciWebservice)
    assert (service.state, service.compute_type, service.auth_enabled) == ("Healthy", "ACI", False)
    answer = service.run(json.dumps({"data": DIGITS[:300].tolist()}))
    right = sum(int(a == b) for a, b in zip(answer["predict"], LABELS[:300], strict=True))
    assert right >= 290
    shares = service.run(json.dumps({"data": DIGITS[:2].tolist(), "method": "predict_proba"}))["predict_proba"]
    assert [sum(row) for row in shares] == pytest.approx([1, 1])
    assert "the model is compiled" in service.get_logs()
    assert "that of the run" in service.get_logs()
    swagger = json.loads(get(service.swagger_uri)[1])
    row = swagger["definitions"]["ServiceInput"]["properties"]["data"]["items"]
    assert (row["minItems"], row["maxItems"]) == (64, 64)
    service.delete()
    assert "digits-service" not in workspace.webservices
    with pytest.raises(WebserviceException, match="WebserviceNotFound"):
        Webservice(workspace, "digits-service")
    with pytest.raises(OSError):
        urllib.request.urlopen(service.scoring_uri, timeout=5)


def test_a_compiled_model_with_limits_has_a_process_that_they_bind(trained: dict[str, Model], deploy: Deploy) -> None:
    for limits in ({"memory_gb_limit": 2}, {"cpu_cores_limit": 2}):
        asked = AksWebservice.deploy_configuration(auth_enabled=False, **limits)
        service = deploy("bound", [trained["linear"]], deployment_config=asked, overwrite=True)
        assert "replica 1 has the model loaded" in service.get_logs()
        assert service._record.how == "compiled"
        assert service.run(json.dumps({"data": DIGITS[:2].tolist()}))["predict"] == LABELS[:2].tolist()
        service.delete()


def test_what_cannot_be_compiled_is_served_by_the_original(trained: dict[str, Model], deploy: Deploy) -> None:
    service = deploy("original", [trained["support"]])
    answer = service.run(json.dumps({"data": DIGITS[:200].tolist()}))
    assert sum(int(a == b) for a, b in zip(answer["predict"], LABELS[:200], strict=True)) >= 190
    assert "the original model serves: no exact form is known for the estimator SVC" in service.get_logs()


def test_every_known_request_shape_is_answered(trained: dict[str, Model], deploy: Deploy) -> None:
    base = deploy("shapes", [trained["linear"]]).scoring_uri.rpartition("/")[0]
    rows, wanted = DIGITS[:3].tolist(), LABELS[:3].tolist()
    assert post(base + "/score", {"data": rows}) == (200, {"predict": wanted})
    assert post(base + "/invocations", {"inputs": rows}) == (200, {"predictions": wanted})
    assert post(base + "/invocations", {"dataframe_split": {"data": rows}}) == (200, {"predictions": wanted})
    tensor = {"name": "x", "shape": [3, 64], "datatype": "FP64", "data": rows}
    status, answer = post(base + "/v2/models/linear/infer", {"id": "7", "inputs": [tensor]})
    assert (status, answer["id"], answer["outputs"][0]["data"]) == (200, "7", wanted)
    assert get(base + "/v2/health/ready")[0] == 200
    told = json.loads(get(base + "/v2/models/linear")[1])
    assert told["inputs"][0]["shape"] == [-1, 64]
    kinds = {one["name"]: one["datatype"] for one in told["outputs"]}
    assert kinds["predict"] == "INT64", "as its classes are"
    assert b'runyard_requests_total{service="shapes",status="200"}' in get(base + "/metrics")[1]


def test_wrong_requests_get_one_sentence_and_harm_nobody(trained: dict[str, Model], deploy: Deploy) -> None:
    uri = deploy("wrong", [trained["linear"]]).scoring_uri
    for body, said in (
        (b"{", "The body is not JSON"),
        (b"[]", "rows"),
        ({"data": [[1, 2]]}, "the model takes [any, 64]"),
        ({"data": [["a"] * 64]}, "takes numbers"),
        ({"data": [[1], [1, 2]]}, "different lengths"),
        ({"data": [[float("nan")] * 64]}, "NaN"),
        ({"data": DIGITS[:1].tolist(), "method": "fit"}, "no method 'fit'"),
        ({"nothing": 1}, '"data"'),
    ):
        status, answer = post(uri, body)
        assert status == 400, body
        assert said in answer["error"] or body == b"[]", (body, answer)
    assert post(uri.rpartition("/")[0] + "/elsewhere", {})[0] == 404
    assert post(uri, {"data": DIGITS[:1].tolist()})[0] == 200


def test_replicas_of_a_model_share_its_requests_and_one_that_is_killed_is_started_anew(
    trained: dict[str, Model], deploy: Deploy
) -> None:
    config = AksWebservice.deploy_configuration(num_replicas=2, auth_enabled=False)
    service = deploy("replicas", [trained["forest"]], deployment_config=config)
    assert isinstance(service, AksWebservice)
    for _ in range(20):
        assert service.run(json.dumps({"data": DIGITS[:5].tolist()}))["predict"] == LABELS[:5].tolist()


def test_keys_are_needed_where_they_are_asked_for_and_an_old_one_ends(
    trained: dict[str, Model], deploy: Deploy
) -> None:
    config = AciWebservice.deploy_configuration(auth_enabled=True, primary_key="first-key-of-this-test")
    service = deploy("keys", [trained["linear"]], deployment_config=config)
    primary, secondary = service.get_keys()
    assert primary == "first-key-of-this-test"
    body = {"data": DIGITS[:1].tolist()}
    assert post(service.scoring_uri, body)[0] == 401
    assert post(service.scoring_uri, body, Authorization="Bearer nobody's")[0] == 401
    for key in (primary, secondary):
        assert post(service.scoring_uri, body, Authorization="Bearer " + key)[0] == 200
    assert service.run(json.dumps(body))["predict"] == LABELS[:1].tolist()
    service.regen_key("Primary")
    assert service.get_keys()[0] != primary
    assert service.run(json.dumps(body))["predict"] == LABELS[:1].tolist()
    wait_until(lambda: post(service.scoring_uri, body, Authorization="Bearer " + primary)[0] == 401, "it ends", 10)
    with pytest.raises(WebserviceException, match="takes no tokens"):
        service.get_token()


def test_tokens_let_in_where_they_are_asked_for(trained: dict[str, Model], deploy: Deploy) -> None:
    config = AksWebservice.deploy_configuration(token_auth_enabled=True, auth_enabled=False, num_replicas=1)
    service = deploy("tokens", [trained["linear"]], deployment_config=config)
    assert (service.token_auth_enabled, service.auth_enabled) == (True, False)
    token, refresh_after = service.get_token()
    body = {"data": DIGITS[:1].tolist()}
    assert post(service.scoring_uri, body, Authorization="Bearer " + token)[0] == 200
    expiry, _, signature = token.partition(".")
    forged = f"{int(expiry) + 3600}.{signature}"
    status, said = post(service.scoring_uri, body, Authorization="Bearer " + forged)
    assert (status, said["error"]) == (401, "A token of this service is needed: 'Authorization: Bearer <token>'.")
    assert refresh_after.tzinfo is not None


def test_an_update_answers_by_the_old_revision_until_the_new_one_can_and_rolls_back(
    trained: dict[str, Model], deploy: Deploy
) -> None:
    service = deploy("updated", [trained["linear"]])
    service.update(models=[trained["support"]])
    while service._is_moving():
        assert service.run(json.dumps({"data": DIGITS[:2].tolist()}))["predict"] == LABELS[:2].tolist()
        service.update_deployment_state()
    assert [one.name for one in service.models] == ["support"]
    assert "compiled" not in service._record.how
    service.rollback()
    service.wait_for_deployment()
    assert [one.name for one in service.models] == ["linear"]
    assert service.run(json.dumps({"data": DIGITS[:2].tolist()}))["predict"] == LABELS[:2].tolist()


def test_an_update_that_fails_leaves_the_old_revision_in_place(
    trained: dict[str, Model], deploy: Deploy, script_folder: Any
) -> None:
    service = deploy("stays", [trained["linear"]])
    folder = script_folder("raise RuntimeError('no such luck')\ndef run(data): return 0\n")
    broken = InferenceConfig("score.py", source_directory=folder, environment=here())
    service.update(inference_config=broken)
    with pytest.raises(WebserviceException, match="no such luck"):
        service.wait_for_deployment()
    assert service.run(json.dumps({"data": DIGITS[:2].tolist()}))["predict"] == LABELS[:2].tolist()
    # The next update is none of the failed one's business.
    service.update(models=[trained["forest"]])
    service.wait_for_deployment()
    assert [one.name for one in service.models] == ["forest"]
    # What never answered is nothing to go back to.
    service.rollback()
    service.wait_for_deployment()
    assert [one.name for one in service.models] == ["linear"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": ["linear"]}, "Model objects, and 'linear' is none"),
        ({"name": None}, "A service's name is a text, not None"),
        ({"inference_config": "score.py"}, "is an InferenceConfig, not 'score.py'"),
        ({"deployment_config": {"cpu_cores": 1}}, "is what AciWebservice.deploy_configuration"),
        ({"deployment_target": "cpu"}, "is a compute target, not 'cpu'"),
    ],
)
def test_what_is_no_deployment_is_refused_in_a_sentence(
    workspace: Workspace, trained: dict[str, Model], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserErrorException, match=re.escape(said)):
        Model.deploy(**{"workspace": workspace, "name": "refused", "models": [trained["linear"]], **given})
    assert "refused" not in workspace.webservices


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (lambda: AciWebservice.deploy_configuration(cpu_cores="x"), "cpu_cores is a number above 0, not 'x'"),
        (lambda: AciWebservice.deploy_configuration(auth_enabled="yes"), "auth_enabled is True or False, not 'yes'"),
        (lambda: AksWebservice.deploy_configuration(memory_gb=2, memory_gb_limit=1), "of at least 2, as memory_gb is"),
        (lambda: AksWebservice.deploy_configuration(replica_max_concurrent_requests=0), "of at least 1, not 0"),
        (lambda: AksWebservice.deploy_configuration(autoscale_enabled=True, autoscale_refresh_seconds=0), "above 0"),
        (lambda: LocalWebservice.deploy_configuration("x"), "A port is from 1 to 65535, not 'x'"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(
    workspace: Workspace, trained: dict[str, Model], config: Any, said: str
) -> None:
    with pytest.raises((WebserviceException, UserErrorException), match=said):
        Model.deploy(workspace, "refused", [trained["linear"]], deployment_config=config())
    assert "refused" not in workspace.webservices


def test_calls_of_a_service_that_is_gone_say_so(trained: dict[str, Model], deploy: Deploy) -> None:
    service = deploy("goes", [trained["linear"]])
    with pytest.raises(UserErrorException, match="is none"):
        service.update(models=["linear"])
    service.delete()
    for call in (service.get_logs, service.get_keys, service.rollback):
        with pytest.raises(WebserviceException, match="'goes' does not exist"):
            call()


SCRIPT = """
import json, os
from azureml.core.model import Model

def init():
    global model, calls
    import joblib
    path = Model.get_model_path("linear")
    assert os.path.samefile(os.path.dirname(path), os.environ["AZUREML_MODEL_DIR"]), path
    model, calls = joblib.load(path), 0

def run(raw_data):
    global calls
    calls += 1
    data = json.loads(raw_data)["data"]
    if data == "fail":
        raise ValueError("this request is refused")
    if data == "numpy":
        return model.predict([[0] * 64])
    return {"labels": model.predict(data).tolist(), "calls": calls}
"""


def test_an_entry_script_answers_and_its_errors_are_its_requests_own(
    trained: dict[str, Model], deploy: Deploy, script_folder: Any
) -> None:
    config = InferenceConfig("score.py", source_directory=script_folder(SCRIPT), environment=here())
    service = deploy("scripted", [trained["linear"]], config)
    assert service.run(json.dumps({"data": DIGITS[:2].tolist()})) == {"labels": LABELS[:2].tolist(), "calls": 1}
    with pytest.raises(WebserviceException, match="this request is refused"):
        service.run(json.dumps({"data": "fail"}))
    with pytest.raises(WebserviceException, match="tolist"):
        service.run(json.dumps({"data": "numpy"}))
    assert "ValueError: this request is refused" in service.get_logs()
    assert service.run(json.dumps({"data": DIGITS[:1].tolist()}))["calls"] == 4


def test_a_script_may_have_its_run_from_elsewhere_and_gets_texts_only(deploy: Deploy, script_folder: Any) -> None:
    for name, text in (("given", "run = str.upper\n"), ("taken", "from beside import *\n")):
        folder = script_folder(text)
        Path(folder, "beside.py").write_text("def run(data):\n    return data.upper()\n")
        config = InferenceConfig("score.py", source_directory=folder, environment=here())
        service = deploy(name, [], config, AciWebservice.deploy_configuration(auth_enabled=False))
        assert service.run("yes") == "YES"
    request = urllib.request.Request(service.scoring_uri, b"\xff")
    status, said = ask(request)
    assert (status, b"no UTF-8 text" in said) == (400, True), said
    with pytest.raises(WebserviceException, match="has no function run"):
        InferenceConfig("score.py", source_directory=script_folder("runs = 1\n"), environment=here()).send(None)  # type: ignore[arg-type]


RAW = """
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse

@rawhttp
def run(request):
    if request.method == "GET":
        return AMLResponse("hello " + request.args["name"], 200)
    answer = AMLResponse(request.get_data()[::-1], 201)
    answer.headers["X-Length"] = str(len(request.data))
    return answer
"""


def test_a_raw_script_has_the_whole_request_and_gives_the_whole_answer(deploy: Deploy, script_folder: Any) -> None:
    service = deploy("raw", [], InferenceConfig("score.py", source_directory=script_folder(RAW), environment=here()))
    assert get(service.scoring_uri + "?name=you") == (200, b"hello you")
    request = urllib.request.Request(service.scoring_uri, b"\x00\x01\x02")
    with urllib.request.urlopen(request) as reply:
        assert (reply.status, reply.read(), reply.headers["X-Length"]) == (201, b"\x02\x01\x00", "3")


def test_a_script_that_cannot_start_fails_with_its_own_traceback(deploy: Deploy, script_folder: Any) -> None:
    text = "def init():\n    open('/nowhere/at/all')\n\ndef run(data):\n    return 1\n"
    with pytest.raises(WebserviceException, match=r"line 2, in init.*\n.*\n.*No such file"):
        deploy("broken", [], InferenceConfig("score.py", source_directory=script_folder(text), environment=here()))


def test_a_local_service_has_v1s_words_and_reloads_a_changed_script(deploy: Deploy, script_folder: Any) -> None:
    folder = script_folder("def run(data):\n    return 'one'\n")
    config = InferenceConfig("score.py", source_directory=folder, environment=here())
    service = deploy("local", [], config, LocalWebservice.deploy_configuration())
    assert isinstance(service, LocalWebservice)
    assert (service.state, service.compute_type) == ("running", "Local")
    assert service.run("{}") == "one"
    script_folder("def run(data):\n    return 'two'\n")
    service.reload(wait=True)
    assert service.run("{}") == "two"
    service.delete()
    assert service.state == "deleted"


def test_a_name_is_taken_once_and_may_be_overwritten(
    workspace: Workspace, trained: dict[str, Model], deploy: Deploy
) -> None:
    deploy("taken", [trained["linear"]])
    with pytest.raises(WebserviceException, match="exists already"):
        Model.deploy(workspace, "taken", [trained["linear"]])
    again = deploy("taken", [trained["forest"]], overwrite=True)
    assert [one.name for one in again.models] == ["forest"]


def test_what_v1_refused_is_refused(workspace: Workspace, trained: dict[str, Model]) -> None:
    with pytest.raises(UserErrorException, match="exactly one model"):
        Model.deploy(workspace, "refused", [trained["linear"], trained["forest"]])
    with pytest.raises(UserErrorException, match="service's name"):
        Model.deploy(workspace, "Not_A_Name", [trained["linear"]])
    with pytest.raises(WebserviceException, match="cannot both be True"):
        AksWebservice.deploy_configuration(auth_enabled=True, token_auth_enabled=True)
    with pytest.raises(WebserviceException, match="num_replicas"):
        AksWebservice.deploy_configuration(autoscale_enabled=True, num_replicas=3)

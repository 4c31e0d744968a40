"""Each framework that needs no code, by its real library in an environment that is built for it.

One run in each environment saves the models and notes what they say there; services answer the same, in the
framework's own shape of requests and in the Open Inference Protocol.
"""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn.datasets import load_iris

from runyard.azureml.core import Environment, Experiment, Model, Run, ScriptRunConfig, Webservice, Workspace
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.errors import WebserviceException
from tests.frameworks.torch_python import torch_python
from tests.frameworks.warm_server import warm_server
from tests.serving.asking import get, infer, post

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("serving-frameworks"),
]

SCRIPTS = Path(__file__).parent / "scripts"
FLOWERS = load_iris().data
ROWS = numpy.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
SMALL = ("onnxruntime", "onnx", "xgboost-cpu", "lightgbm", "scikit-learn", "pandas", "mlflow-skinny")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """With what earlier runs of this user have fetched."""
    with warm_server(tmp_path_factory.mktemp("frameworks-served")):
        yield Workspace.create("frameworks-served", exist_ok=True)


Deploy = Callable[..., Webservice]


@pytest.fixture
def deploy(workspace: Workspace) -> Iterator[Deploy]:
    """Registers a model of a run, deploys it, waits, and deletes it at the end."""
    made: list[Webservice] = []

    def begin(run: Run, name: str, path: str, framework: str) -> Webservice:
        model = run.register_model(name, path, model_framework=framework)
        made.append(Model.deploy(workspace, name, [model]))
        made[-1].wait_for_deployment()
        return made[-1]

    yield begin
    for one in made:
        one.delete()


class Trained:
    """A run that has saved models, and what they said."""

    def __init__(self, workspace: Workspace, folder: Path, script: str, environment: Environment) -> None:
        source = folder / "source"
        source.mkdir()
        shutil.copy(SCRIPTS / script, source)
        self.run = Experiment(workspace, "saved").submit(ScriptRunConfig(str(source), script, environment=environment))
        self.run.wait_for_completion(raise_on_error=False)
        assert self.run.get_status() == "Completed", self.run.get_details_with_logs()
        self.run.download_file("outputs/said.json", str(folder / "said.json"))
        self.said: Any = json.loads((folder / "said.json").read_text())


def packed(name: str, *packages: str) -> Environment:
    """An environment that is built of these."""
    found = Environment(name)
    found.python.conda_dependencies = CondaDependencies.create(pip_packages=packages)
    return found


@pytest.fixture(scope="module")
def small(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """ONNX, XGBoost, LightGBM, MLflow."""
    return Trained(workspace, tmp_path_factory.mktemp("small"), "save_small.py", packed("small", *SMALL))


@pytest.fixture(scope="module")
def tensorflow(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """TensorFlow and Keras, by the wheel that the articles' tests have fetched."""
    environment = packed("tensorflow", "tensorflow-cpu")
    return Trained(workspace, tmp_path_factory.mktemp("tensorflow"), "save_tensorflow.py", environment)


@pytest.fixture(scope="module")
def torch(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """TorchScript and an exported program."""
    environment = Environment("pytorch")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = str(torch_python())
    return Trained(workspace, tmp_path_factory.mktemp("torch"), "save_torch.py", environment)


def base_of(service: Webservice) -> str:
    """The service's address without a path."""
    return "/".join(service.scoring_uri.split("/")[:3])


def close(found: Any, wanted: Any) -> bool:
    """To what float32 can hold."""
    return bool(numpy.allclose(numpy.asarray(found).reshape(numpy.shape(wanted)), wanted, rtol=1e-4, atol=1e-5))


def test_an_onnx_model_takes_its_tensors_in_every_shape(small: Trained, deploy: Deploy) -> None:
    service = deploy(small.run, "onnx-flowers", "outputs/flowers.onnx", Model.Framework.ONNX)
    wanted = small.said["Onnx"]
    assert service.run(json.dumps({"data": FLOWERS.tolist()}))["label"] == wanted
    assert service.run(json.dumps({"inputs": {"flower": FLOWERS.tolist()}}))["outputs"]["label"] == wanted
    runtime = {"dims": ["150", "4"], "dataType": 1, "floatData": FLOWERS.reshape(-1).tolist()}
    status, answer = post(service.scoring_uri, {"inputs": {"flower": runtime}, "outputFilter": ["label"]})
    assert (status, list(answer["outputs"])) == (200, ["label"]), answer
    raw = base64.b64decode(answer["outputs"]["label"]["rawData"])
    assert numpy.frombuffer(raw, dtype="int64").tolist() == wanted
    assert infer(base_of(service), "onnx-flowers", flower=("FP32", FLOWERS.tolist()))["label"] == wanted


def test_a_booster_of_xgboost_answers_by_its_objective(small: Trained, deploy: Deploy) -> None:
    service = deploy(small.run, "boosted", "outputs/flowers.ubj", "XGBoost")
    assert close(service.run(json.dumps({"data": FLOWERS.tolist()}))["predict"], small.said["XGBoost"])
    found = infer(base_of(service), "boosted", data=("FP32", FLOWERS.tolist()))
    assert close(found["predict"], small.said["XGBoost"])
    assert "with xgboost-cpu==" in service.get_logs()
    by_name = {
        "dataframe_records": [{"petal width": 0.2, "sepal length": 5.1, "sepal width": 3.5, "petal length": 1.4}]
    }
    status, answer = post(base_of(service) + "/invocations", by_name)
    assert status == 200, answer
    assert close(answer["predictions"], small.said["XGBoost"][:1])


def test_a_booster_of_lightgbm_answers_by_its_objective(small: Trained, deploy: Deploy) -> None:
    service = deploy(small.run, "light", "outputs/flowers.txt", "LightGBM")
    assert close(service.run(json.dumps({"data": FLOWERS.tolist()}))["predict"], small.said["LightGBM"])
    found = infer(base_of(service), "light", data=("FP64", FLOWERS.tolist()))
    assert close(found["predict"], small.said["LightGBM"])


def test_a_model_of_mlflow_answers_as_mlflows_own_server(small: Trained, deploy: Deploy) -> None:
    service = deploy(small.run, "flavoured", "outputs/flavoured", "MLflow")
    base, wanted = base_of(service), small.said["MLflow"]
    columns = ["sepal length", "sepal width", "petal length", "petal width"]
    split = {"dataframe_split": {"columns": columns, "data": FLOWERS.tolist()}}
    assert post(base + "/invocations", split) == (200, {"predictions": wanted})
    backwards = [dict(zip(columns[::-1], row[::-1], strict=True)) for row in FLOWERS[:3].tolist()]
    assert post(base + "/invocations", {"dataframe_records": backwards}) == (200, {"predictions": wanted[:3]})
    # JSON has one kind of number; the signature says double.
    assert service.run(json.dumps({"data": [[5, 3, 1, 0]]})) == {"predict": ["setosa"]}
    found = infer(base, "flavoured", **{name: ("FP64", FLOWERS[:, at].tolist()) for at, name in enumerate(columns)})
    assert found["predict"] == wanted
    status, answer = post(base + "/invocations", {"dataframe_split": {"columns": ["height"], "data": [[1.0]]}})
    assert (status, "[any, 4]" in answer["error"]) == (400, True), answer
    unlike = [{"height": 1.0}]
    status, answer = post(service.scoring_uri, {"data": unlike})
    assert (status, "sepal length" in answer["error"]) == (400, True), answer


def test_a_saved_model_answers_each_of_its_signatures(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "several", "outputs/several", Model.Framework.TENSORFLOW)
    assert service.scoring_uri.endswith("/v1/models/several:predict")
    answer = service.run(json.dumps({"instances": ROWS.tolist()}))
    assert close(answer["predictions"], tensorflow.said["several"])
    words = {"signature_name": "words", "inputs": {"text": ["one", "three"], "times": [1, 2]}}
    assert service.run(json.dumps(words)) == {"outputs": {"upper": ["ONE", "THREE"], "length": [3, 10]}}
    by_rows = {"signature_name": "words", "instances": [{"text": {"b64": "b25l"}, "times": 3}]}
    assert service.run(json.dumps(by_rows)) == {"predictions": [{"upper": "ONE", "length": 9}]}
    base = base_of(service)
    assert close(infer(base, "several", rows=("FP32", ROWS.tolist()))["sums"], tensorflow.said["several"])
    metadata = get(base + "/v1/models/several/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert set(metadata) >= {"serving_default", "words"}
    assert metadata["words"]["inputs"]["text"]["dtype"] == "DT_STRING"


def test_a_keras_file_is_compiled_and_takes_inputs_by_their_names(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "network", "outputs/network.keras", Model.Framework.TFKERAS)
    pairs = [{"left": one, "right": two} for one, two in zip(ROWS.tolist(), ROWS[::-1].tolist(), strict=True)]
    answer = service.run(json.dumps({"instances": pairs}))
    assert close(answer["predictions"], tensorflow.said["network"])
    both = {"left": ("FP32", ROWS.tolist()), "right": ("FP32", ROWS[::-1].tolist())}
    (shares,) = infer(base_of(service), "network", **both).values()
    assert close(shares, tensorflow.said["network"])
    assert "the model is compiled" in service.get_logs()


def test_an_h5_file_that_no_program_can_do_is_served_by_keras(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "ordered", "outputs/ordered.h5", "Keras")
    rows = ROWS[:, :, None].tolist()
    assert close(service.run(json.dumps({"instances": rows}))["predictions"], tensorflow.said["ordered"])
    (values,) = infer(base_of(service), "ordered", rows=("FP32", rows)).values()
    assert close(values, tensorflow.said["ordered"])
    assert "the original model serves" in service.get_logs()


@pytest.mark.parametrize("file", ["scripted.pt", "exported.pt2"])
def test_a_network_of_pytorch_needs_no_code(torch: Trained, deploy: Deploy, file: str) -> None:
    name = file.partition(".")[0]
    service = deploy(torch.run, name, f"outputs/{file}", "PyTorch")
    assert close(service.run(json.dumps({"data": ROWS.tolist()}))["output_0"], torch.said)
    assert close(service.run(json.dumps({"instances": ROWS.tolist()}))["predictions"], torch.said)
    assert close(infer(base_of(service), name, input=("FP32", ROWS.tolist()))["output_0"], torch.said)
    status, answer = post(service.scoring_uri, {"data": [[1.0, 2.0]]})
    assert status in (400, 500)
    assert answer["error"]
    assert service.run(json.dumps({"data": ROWS[:1].tolist()}))


def test_weights_alone_are_refused_with_what_to_do(torch: Trained, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"no network is in here")
    torch.run.upload_file("outputs/weights.pt", str(tmp_path / "weights.pt"))
    model = torch.run.register_model("weights", "outputs/weights.pt", model_framework="PyTorch")
    service = Model.deploy(workspace, "weights", [model])
    with pytest.raises(WebserviceException, match=r"torch\.jit\.save"):
        service.wait_for_deployment()
    service.delete()

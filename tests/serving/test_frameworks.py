"""Each framework that needs no code, by its real library in an environment that is built for it.

One run in each environment saves the models and notes what they say there; services answer the same, in the
framework's own shape of requests and in the Open Inference Protocol.
"""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from sklearn.datasets import load_iris

from runyard.azureml.core import Environment, Experiment, Model, Run, ScriptRunConfig, Webservice, Workspace
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.environments.pythons import find_minor
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
ARTICLE = Path(__file__).parents[1] / "articles" / "blocks" / "a1_06.yml"
FLOWERS = load_iris().data
ROWS = numpy.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
#: The head of a JPEG.
IMAGE = bytes.fromhex("ffd8ffe000104a46494600")
#: A tf.train.Example with the age 20.0 and the city Rome.
EXAMPLE = "CiMKDwoDYWdlEggSBgoEAACgQQoQCgRjaXR5EggKBgoEUm9tZQ=="
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
def estimators(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """tf.estimator of TensorFlow 2.2, in the environment of the article of its time."""
    if find_minor("3.8") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have Python 3.8: TensorFlow 2.2 needs it.")
        pytest.skip("This host has no Python 3.8.")
    environment = Environment.from_conda_specification("estimators", str(ARTICLE))
    return Trained(workspace, tmp_path_factory.mktemp("estimators"), "save_estimator.py", environment)


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
    assert (status, "does not know the columns height" in answer["error"]) == (400, True), answer
    by_columns = {"inputs": {name: FLOWERS[:, at].tolist() for at, name in reversed(list(enumerate(columns)))}}
    assert post(base + "/invocations", by_columns) == (200, {"predictions": wanted})
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


def test_a_saved_model_may_be_called_one_of_keras_too(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "of-keras", "outputs/several", Model.Framework.TFKERAS)
    assert close(service.run(json.dumps({"instances": ROWS.tolist()}))["predictions"], tensorflow.said["several"])


def test_an_estimator_classifies_and_regresses_examples_as_under_tensorflow_serving(
    estimators: Trained, deploy: Deploy
) -> None:
    people = [
        {"age": 20.0, "city": "Rome"},
        {"age": [31.0], "city": ["Oslo"]},
        {"age": 45.0, "city": {"b64": "Um9tZQ=="}},
    ]
    labels = ["young", "old", "older"]
    kinds = deploy(estimators.run, "kinds", "outputs/kinds", Model.Framework.TENSORFLOW)
    address = base_of(kinds) + "/v1/models/kinds:classify"
    status, answer = post(address, {"examples": people})
    assert status == 200, answer
    assert [[label for label, _ in one] for one in answer["results"]] == [labels] * 3
    assert close([[score for _, score in one] for one in answer["results"]], estimators.said["kinds"][:3])
    status, answer = post(address, {"context": {"city": "Lima"}, "examples": [{"age": 60.0}, people[0]]})
    assert close([[score for _, score in one] for one in answer["results"]], estimators.said["kinds"][::-3])
    assert post(address, {"signature_name": "classification", "examples": people[:1]})[0] == 200
    for body, said in (
        ({"examples": [{"age": None}]}, "'age'"),
        ({"examples": [{"age": [1, "a"]}]}, "of one kind"),
        ({"examples": [{"city": "Rome"}]}, "age"),
        ({"examples": []}, '"examples"'),
        ({"examples": people, "signature_name": "predict"}, "no signature for classify"),
    ):
        status, answer = post(address, body)
        assert (status, said in answer["error"]) == (400, True), answer
    status, answer = post(address.replace("classify", "regress"), {"examples": people})
    assert (status, "no signature for regress" in answer["error"]) == (400, True)
    # The same by bytes that the caller has made.
    answer = kinds.run(json.dumps({"signature_name": "predict", "instances": [{"b64": EXAMPLE}]}))
    assert close(answer["predictions"][0]["probabilities"], estimators.said["kinds"][0])
    assert answer["predictions"][0]["classes"] == ["young"]
    incomes = deploy(estimators.run, "incomes", "outputs/incomes", Model.Framework.TENSORFLOW)
    status, answer = post(base_of(incomes) + "/v1/models/incomes:regress", {"examples": people})
    assert status == 200, answer
    assert close(answer["results"], estimators.said["incomes"][:3])
    metadata = get(base_of(incomes) + "/v1/models/incomes/metadata")[1]["metadata"]["signature_def"]["signature_def"]
    assert metadata["serving_default"]["method_name"] == "tensorflow/serving/regress"


def test_a_saved_model_of_today_reads_examples_and_takes_images_as_bytes(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "parsed", "outputs/parsed", Model.Framework.TENSORFLOW)
    base = base_of(service) + "/v1/models/parsed"
    status, answer = post(base + ":classify", {"examples": [{"pair": [1.0, 2.0]}, {"pair": [0.5, 0.5]}]})
    assert status == 200, answer
    assert [[label for label, _ in one] for one in answer["results"]] == [["", ""], ["", ""]]
    assert close([[score for _, score in one] for one in answer["results"]], [[0.268941, 0.731059], [0.5, 0.5]])
    image = {"b64": base64.b64encode(IMAGE).decode()}
    found = post(
        base + ":regress", {"context": {"times": 2}, "examples": [{"image": image}, {"image": "abc", "times": 1}]}
    )
    assert found == (200, {"results": [2.0 * len(IMAGE), 3.0]})
    # Neither JSON nor text can hold these bytes.
    answer = service.run(json.dumps({"instances": [image, image]}))
    assert answer == {"predictions": [{"bytes": len(IMAGE), "same": image}] * 2}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(IMAGE) + 4}}
    header = json.dumps({"inputs": [tensor], "outputs": [{"name": "bytes"}]}).encode()
    body = header + len(IMAGE).to_bytes(4, "little") + IMAGE
    length = {"Inference-Header-Content-Length": str(len(header))}
    status, answer = post(base_of(service) + "/v2/models/parsed/infer", body, **length)
    assert (status, answer["outputs"][0]["data"]) == (200, [len(IMAGE)]), answer


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


Asked = tuple[dict[str, Any], int, str]


def check_asked(service: Webservice, asked: list[Asked]) -> None:
    """Each body gets that status, and words of the answer; whoever refuses says one sentence, of no code."""
    for body, status, words in asked:
        found, answer = post(service.scoring_uri, body)
        said = json.dumps(answer, ensure_ascii=False)
        assert (found, words in said) == (status, True), (body, found, answer)
        assert "File " not in said, (body, answer)
        assert "Traceback" not in said, (body, answer)


def test_hard_values_get_tensorflows_answer_or_a_sentence(tensorflow: Trained, deploy: Deploy) -> None:
    def kinds(whole: Any = 1, truth: Any = True, short: Any = 1) -> dict[str, Any]:
        return {"signature_name": "kinds", "inputs": {"whole": [whole], "truth": [truth], "short": [short]}}

    def words(text: Any) -> dict[str, Any]:
        return {"signature_name": "words", "inputs": {"text": [text], "times": [1]}}

    rows_of_two, rows_of_three = [[1, 2]] * 2, [[1, 2]] * 3
    service = deploy(tensorflow.run, "hard-several", "outputs/several", Model.Framework.TENSORFLOW)
    nan, infinity = float("nan"), float("inf")
    check_asked(
        service,
        [
            ({"instances": [[nan, 1, 1, 1], [infinity, 1, 1, 1]]}, 200, "[[NaN, NaN], [Infinity, Infinity]]"),
            ({"instances": [[None, 1, 1, 1]]}, 200, "[[NaN, NaN]]"),
            ({"instances": [[1, True, 0, 0]]}, 200, "[[4.0, 6.0]]"),
            ({"instances": [["1", 1, 1, 1]]}, 400, "takes numbers (float32), and here is '1'"),
            ({"instances": []}, 400, "at least one item"),
            ({"instances": [1, 1, 1, 1]}, 400, "has the shape [4]; the model takes [any, 4]"),
            ({"instances": [[1, 1, 1, 1], [1]]}, 400, "different lengths"),
            ({"inputs": {"rows": [[1, 1, 1, 1]], "more": 1}}, 400, "takes the inputs rows; given: rows, more"),
            (kinds(2**53 + 1), 200, str(2**53 + 1)),
            (kinds(2**63), 400, "whole numbers (int64), and here is 9223372036854775808"),
            (kinds(1.5), 400, "and here is 1.5"),
            (kinds(truth=2), 400, "true or false, and here is 2"),
            (kinds(short=1.5), 200, '"short": [3.0]'),
            (kinds(short=None), 200, '"short": [NaN]'),
            ({"signature_name": "kinds", "inputs": {"whole": [1]}}, 400, "given: whole"),
            (words("Köln"), 200, '"length": [5]'),
            (words({"b64": "/9j/"}), 200, '"length": [3]'),
            (words({"b64": "?"}), 400, "not base64"),
            (words(None), 400, "takes texts, and here is None"),
            (words(5), 400, "takes texts, and here is 5"),
            (words({"age": None}), 400, "The feature 'age'"),
            (
                {"signature_name": "added", "inputs": {"left": rows_of_two, "right": rows_of_three}},
                400,
                "Incompatible shapes: [2,2] vs. [3,2]",
            ),
        ],
    )
    empty = {"name": "rows", "shape": [0, 4], "datatype": "FP32", "data": []}
    status, answer = post(base_of(service) + "/v2/models/hard-several/infer", {"inputs": [empty]})
    assert (status, answer["outputs"][0]["shape"]) == (200, [0, 2]), answer


def test_a_compiled_network_answers_hard_rows_as_tensorflow(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "shy", "outputs/shy.keras", Model.Framework.TFKERAS)
    assert "the model is compiled" in service.get_logs()
    nan, infinity = float("nan"), float("inf")
    hard = [[nan] * 4, [1, nan, 2, 3], [infinity, 1, 2, 3], [-infinity, 1, 2, 3], [1e39, 0, 0, 0], [-0.0] * 4]
    for row, wanted in zip(hard, tensorflow.said["shy"], strict=True):
        status, answer = post(service.scoring_uri, {"instances": [row]})
        assert status == 200, answer
        both_lack = numpy.isnan(answer["predictions"]).any() and numpy.isnan(wanted).any()
        assert both_lack or numpy.allclose(answer["predictions"], wanted), (row, answer, wanted)


def test_a_keras_model_that_reads_texts_takes_them(tensorflow: Trained, deploy: Deploy) -> None:
    service = deploy(tensorflow.run, "lookup", "outputs/words.keras", Model.Framework.TFKERAS)
    check_asked(
        service,
        [
            ({"instances": [["zwölf"], ["one"], ["other"]]}, 200, "[[2], [1], [0]]"),
            ({"instances": [[1]]}, 400, "takes texts, and here is 1"),
            ({"instances": ["one"]}, 400, "has the shape [1]; the model takes [any, 1]"),
        ],
    )


def test_hard_values_get_onnx_runtimes_answer_or_a_sentence(small: Trained, deploy: Deploy) -> None:
    service = deploy(small.run, "kinds-of-onnx", "outputs/kinds.onnx", Model.Framework.ONNX)

    def kinds(**given: Any) -> dict[str, Any]:
        whole = {"number": [1.5], "whole": [1], "truth": [True], "text": ["a"], "half": [0.5], **given}
        return {"inputs": {name: value for name, value in whole.items() if value != []}}

    check_asked(
        service,
        [
            (kinds(number=[None]), 200, '"numbers": [NaN]'),
            (kinds(number=[1e39]), 200, '"numbers": [Infinity]'),
            (kinds(number=[1]), 200, '"numbers": [1.0]'),
            (kinds(number=["1"]), 400, "takes numbers (float32), and here is '1'"),
            (kinds(number=[[1]]), 400, "has the shape [1, 1]; the model takes [any]"),
            (kinds(number=[[1], [1, 2]]), 400, "different lengths"),
            (kinds(whole=[2**53 + 1]), 200, str(2**53 + 1)),
            (kinds(whole=[0.5]), 400, "and here is 0.5"),
            (kinds(truth=[2]), 400, "true or false, and here is 2"),
            (kinds(text=["Köln"]), 200, "Köln"),
            (kinds(text=[None]), 400, "takes texts in UTF-8, and here is None"),
            (kinds(text=[{"b64": "/9j/"}]), 400, "takes texts in UTF-8"),
            (kinds(text=[{"b64": "YQ=="}]), 200, '"texts": ["a"]'),
            (kinds(half=[70000]), 200, '"halfs": [Infinity]'),
            (kinds(half=[]), 400, "given: number, whole, truth, text"),
            (kinds(more=[1]), 400, "given: number, whole, truth, text, half, more"),
        ],
    )


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

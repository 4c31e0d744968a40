"""Request shapes decoded and answers encoded, without a socket."""

import base64
import json
import struct
from typing import Any

import numpy
import pytest

from runyard.protocol.scoring import OBJECT, ROWS, TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.serving.dialects import mlflow_json, onnx_json, open_inference, rows, swagger, tensorflow_rest
from runyard.serving.dialects.question import BadRequestError, Question
from runyard.serving.dialects.values import dumps, loads, objects, to_array

IMAGE = TensorFacts("image", "float32", (-1, 3))
NETWORK = ModelFacts(
    TENSORS,
    "TensorFlow",
    signatures={
        "serving_default": SignatureFacts((IMAGE,), (TensorFacts("scores", "float32", (-1, 2)),)),
        "two": SignatureFacts(
            (IMAGE, TensorFacts("scale", "int64", (-1,))), (TensorFacts("scores", "float32", (-1, 2)),)
        ),
        "labels": SignatureFacts((TensorFacts("examples", OBJECT, (-1,)),), (), "classify"),
    },
    default="serving_default",
)
TABLE = ModelFacts(
    ROWS,
    "ScikitLearn",
    signatures={
        name: SignatureFacts((TensorFacts("data", OBJECT, (-1, 2)),), ()) for name in ("predict", "predict_proba")
    },
    default="predict",
    columns=("age", "city"),
)
SCORES = {"scores": numpy.array([[0.25, 0.75], [1, 0]], "float32")}


def said(question: Question, outputs: dict[str, Any]) -> Any:
    return json.loads(question.encode(outputs)[0])


def test_tensorflow_instances_are_rows_and_inputs_are_columns() -> None:
    question = tensorflow_rest.predict(NETWORK, {"instances": [[1, 2, 3], [4, 5, 6]]})
    assert question.inputs["image"].dtype == "float32"
    assert said(question, SCORES) == {"predictions": [[0.25, 0.75], [1, 0]]}
    question = tensorflow_rest.predict(NETWORK, {"inputs": {"image": [[1, 2, 3]]}})
    assert said(question, SCORES) == {"outputs": [[0.25, 0.75], [1, 0]]}
    several = {**SCORES, "label": numpy.array([1, 0])}
    question = tensorflow_rest.predict(
        NETWORK, {"instances": [{"image": [1, 2, 3], "scale": 2}], "signature_name": "two"}
    )
    assert question.inputs["scale"].tolist() == [2]
    assert said(question, several) == {
        "predictions": [{"scores": [0.25, 0.75], "label": 1}, {"scores": [1, 0], "label": 0}]
    }


def test_tensorflow_examples_go_to_a_signature_for_them() -> None:
    body = {"context": {"year": 1999}, "examples": [{"age": 3}, {"age": 4}]}
    question = tensorflow_rest.examples(NETWORK, body, "classify")
    assert question.inputs["examples"].tolist() == [{"year": 1999, "age": 3}, {"year": 1999, "age": 4}]
    answer = said(question, {"scores": SCORES["scores"], "classes": objects([["a", "b"], ["a", "b"]])})
    assert answer == {"results": [[["a", 0.25], ["b", 0.75]], [["a", 1.0], ["b", 0.0]]]}
    with pytest.raises(BadRequestError, match="no signature for regress"):
        tensorflow_rest.examples(NETWORK, body, "regress")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"instances": []}, "at least one item"),
        ({"instances": [[1, 2]]}, r"shape \[1, 2\]; the model takes \[any, 3\]"),
        ({"instances": [[1, 2, 3], [1, 2]]}, "different lengths"),
        ({"instances": [["a", "b", "c"]]}, "takes numbers"),
        ({"instances": [[1, 2, 3]], "signature_name": "none"}, "no signature 'none'"),
        ({"instances": [{"image": [1, 2, 3]}], "signature_name": "two"}, "image, scale"),
        ({"inputs": {"image": [[1, 2, 3]], "scale": [1.5]}, "signature_name": "two"}, "takes int64"),
        ({}, '"instances"'),
    ],
)
def test_what_does_not_fit_a_network_is_said(body: Any, sentence: str) -> None:
    with pytest.raises(BadRequestError, match=sentence):
        tensorflow_rest.predict(NETWORK, body)


def test_rows_may_be_lists_or_objects_and_name_their_method() -> None:
    question = rows.decode(TABLE, {"data": [[3, "Rome"], [4, "Oslo"]], "method": "predict_proba"})
    assert question.signature == "predict_proba"
    assert question.inputs["data"].shape == (2, 2)
    question = rows.decode(TABLE, {"data": [{"age": 3, "city": "Rome"}]})
    assert question.inputs["data"].tolist() == [{"age": 3, "city": "Rome"}]
    assert said(question, {"predict": objects(["yes"])}) == {"predict": ["yes"]}


def test_onnx_tensors_travel_raw_or_as_values() -> None:
    facts = ModelFacts(TENSORS, "Onnx", signatures={"d": SignatureFacts((IMAGE,))}, default="d")
    values = numpy.array([[1, 2, 3]], "float32")
    raw = {"dims": ["1", "3"], "dataType": 1, "rawData": base64.b64encode(values.tobytes()).decode()}
    for tensor in (raw, {"dims": [1, 3], "dataType": 1, "floatData": [1, 2, 3]}):
        body = {"inputs": {"image": tensor}, "outputFilter": ["scores"]}
        assert onnx_json.is_meant(body)
        question = onnx_json.decode(facts, body)
        assert (question.inputs["image"] == values).all()
    answer = said(question, {**SCORES, "other": values})["outputs"]
    assert list(answer) == ["scores"]
    assert answer["scores"]["dims"] == ["2", "2"]
    assert numpy.frombuffer(base64.b64decode(answer["scores"]["rawData"]), "float32").tolist() == [0.25, 0.75, 1, 0]
    for wrong in (
        {"dims": [1, 3], "dataType": 11, "doubleData": [1, 2, 3]},
        {"dims": [1, 4], "dataType": 1, "rawData": "!"},
    ):
        with pytest.raises(BadRequestError):
            onnx_json.decode(facts, {"inputs": {"image": wrong}})


def test_open_inference_takes_and_gives_binary_tensors() -> None:
    values = numpy.array([[1, 2, 3], [4, 5, 6]], "float32")
    header = {
        "id": "9",
        "inputs": [{"name": "image", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
    text = json.dumps(header).encode()
    question = open_inference.decode(NETWORK, text + values.tobytes(), str(len(text)), "m", "1")
    assert (question.inputs["image"] == values).all()
    body, kind, headers = question.encode(SCORES)
    assert headers is not None
    length = int(headers["Inference-Header-Content-Length"])
    answer = json.loads(body[:length])
    assert (kind, answer["id"], answer["outputs"][0]["parameters"]) == (
        "application/octet-stream",
        "9",
        {"binary_data_size": 16},
    )
    assert body[length:] == SCORES["scores"].tobytes()
    texts = b"".join(struct.pack("<I", len(one)) + one for one in (b"Rome", b""))
    tensor = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    question = open_inference.decode(TABLE, text + texts, str(len(text)), "m", "1")
    assert question.inputs["data"].tolist() == [["Rome", ""]]


@pytest.mark.parametrize(
    "tensor",
    [
        {"name": "image", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 10**12}},
        {"name": "image", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": -1}},
        {"name": "image", "shape": [2, 3], "datatype": "FP31", "data": [1]},
        {"name": "image", "shape": [2, -3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]},
        {"name": "image", "shape": [1 << 40, 1 << 40], "datatype": "FP32", "data": []},
        {"name": "image", "shape": "x", "datatype": "FP32", "data": [1]},
        {"shape": [1], "datatype": "FP32"},
        7,
    ],
)
def test_a_tensor_that_lies_about_itself_is_refused(tensor: Any) -> None:
    with pytest.raises(BadRequestError):
        open_inference.decode(NETWORK, json.dumps({"inputs": [tensor]}).encode(), "", "m", "1")


def test_mlflow_tables_go_by_the_names_of_their_columns() -> None:
    split = {"dataframe_split": {"columns": ["city", "age"], "data": [["Rome", 3]]}}
    assert mlflow_json.decode(TABLE, json.dumps(split).encode(), "application/json").inputs["data"].tolist() == [
        [3, "Rome"]
    ]
    records = {"dataframe_records": [{"city": "Oslo", "age": 4}]}
    assert mlflow_json.from_json(TABLE, records).inputs["data"].tolist() == [[4, "Oslo"]]
    question = mlflow_json.decode(TABLE, b"city,age\nRome,3\n", "text/csv; charset=utf-8")
    assert question.inputs["data"].tolist() == [[3, "Rome"]]
    assert said(question, {"predict": numpy.array([1.5])}) == {"predictions": [1.5]}


def test_numbers_that_json_does_not_have_come_in_and_go_out_as_python_writes_them() -> None:
    assert numpy.isnan(loads(b"[NaN]")[0])
    assert dumps({"a": numpy.array([numpy.nan, 1.0])}) == b'{"a":[NaN,1.0]}'
    assert numpy.isnan(to_array([[None, 1, 2]], IMAGE)[0, 0])
    with pytest.raises(BadRequestError, match="not JSON"):
        loads(b"[NaN")
    with pytest.raises(BadRequestError, match="not JSON"):
        loads(b"[" * 100_000)


def test_swagger_tells_the_models_own_inputs() -> None:
    document = swagger.describe(NETWORK, "net", "/v1/models/net:predict", True)
    instances = document["definitions"]["ServiceInput"]["properties"]["instances"]
    assert instances["items"] == {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    assert document["paths"]["/v1/models/net:predict"]["post"]["security"] == [{"Bearer": []}]
    table = swagger.describe(TABLE, "table", "/score", False)["definitions"]["ServiceInput"]
    assert table["properties"]["method"]["enum"] == ["predict", "predict_proba"]
    assert "age, city" in table["properties"]["data"]["items"]["description"]

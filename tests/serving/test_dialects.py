"""Request shapes decoded and answers encoded, without a socket."""

import base64
import json
import struct
from dataclasses import replace
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
    # As TensorFlow Serving: a label that the model does not give is empty, a score 0.
    assert said(question, {"scores": SCORES["scores"]}) == {
        "results": [[["", 0.25], ["", 0.75]], [["", 1.0], ["", 0.0]]]
    }
    assert said(question, {"classes": objects([["a"], ["b"]])}) == {"results": [[["a", 0.0]], [["b", 0.0]]]}
    for outputs in ({"logits": SCORES["scores"]}, {"scores": SCORES["scores"][0]}):
        with pytest.raises(BadRequestError, match='no "scores" or "classes"'):
            question.encode(outputs)
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
        ({"instances": [[1, 2, 3]], "signature_name": ["two"]}, "no signature"),
        ({"instances": [{"image": [1, 2, 3]}], "signature_name": "two"}, "image, scale"),
        (
            {"inputs": {"image": [[1, 2, 3]], "scale": [1.5]}, "signature_name": "two"},
            "takes whole numbers .int64., and here is 1.5",
        ),
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


@pytest.mark.parametrize("method", [["predict"], {}, 5])
def test_a_method_that_is_no_name_is_refused(method: Any) -> None:
    with pytest.raises(BadRequestError, match="no method"):
        rows.decode(TABLE, {"data": [[3, "Rome"]], "method": method})


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


#: Numbers in two columns that have names, and in two that have none.
NAMED = ModelFacts(
    TENSORS,
    "XGBoost",
    signatures={"predict": SignatureFacts((TensorFacts("data", "float32", (-1, 2)),))},
    default="predict",
    columns=("age", "size"),
)
UNNAMED = replace(NAMED, kind=ROWS, columns=())
#: A row may lack its second column.
LENIENT = replace(TABLE, framework="MLflow", optional=("city",))
#: Whoever saved it has not said what it takes.
UNKNOWN = replace(
    TABLE,
    framework="MLflow",
    columns=(),
    signatures={"predict": SignatureFacts((TensorFacts("data", OBJECT, (-1, -1)),))},
)


def given(facts: ModelFacts, body: Any) -> Any:
    """What an invocation gives the model."""
    return mlflow_json.decode(facts, json.dumps(body).encode(), "application/json").inputs["data"].tolist()


def test_mlflow_tables_go_by_the_names_of_their_columns() -> None:
    split = {"dataframe_split": {"columns": ["city", "age"], "data": [["Rome", 3]], "index": [0]}}
    assert given(TABLE, split) == [[3, "Rome"]]
    assert given(TABLE, {"dataframe_records": [{"city": "Oslo", "age": 4}]}) == [[4, "Oslo"]]
    assert given(TABLE, {"inputs": {"city": ["Oslo", "Rome"], "age": [4, None]}}) == [[4, "Oslo"], [None, "Rome"]]
    assert given(TABLE, {"inputs": {"city": "Oslo", "age": 4}}) == [[4, "Oslo"]]
    assert given(TABLE, {"inputs": [{"city": "Oslo", "age": 4}]}) == [{"city": "Oslo", "age": 4}]
    question = mlflow_json.decode(TABLE, b"city,age\nRome,3\n", "text/csv; charset=utf-8")
    assert question.inputs["data"].tolist() == [[3, "Rome"]]
    assert said(question, {"predict": numpy.array([1.5])}) == {"predictions": [1.5]}


def test_numbers_go_by_the_names_of_their_columns_too_and_in_order_where_there_are_none() -> None:
    split = {"dataframe_split": {"columns": ["size", "age"], "data": [[1, 2], [3, 4]]}}
    assert (given(NAMED, split), given(UNNAMED, split)) == ([[2, 1], [4, 3]], [[1, 2], [3, 4]])
    columns = {"inputs": {"size": [1, 3], "age": [2, 4]}}
    assert (given(NAMED, columns), given(UNNAMED, columns)) == ([[2, 1], [4, 3]], [[1, 2], [3, 4]])
    assert given(NAMED, {"instances": [{"size": 1, "age": 2}]}) == [[2, 1]]
    assert given(NAMED, {"dataframe_split": {"data": [[1, 2]]}}) == [[1, 2]], "who gives no names means their order"
    assert given(NAMED, {"inputs": [[1, 2]]}) == given(NAMED, {"inputs": {"data": [[1, 2]]}}) == [[1, 2]]
    question = tensorflow_rest.predict(NAMED, columns)
    assert (question.inputs["data"].tolist(), said(question, {"predict": numpy.ones(2)})) == (
        [[2, 1], [4, 3]],
        {"outputs": [1.0, 1.0]},
    )
    tensors = [
        {"name": name, "shape": [2], "datatype": "FP32", "data": values} for name, values in columns["inputs"].items()
    ]
    question = open_inference.decode(NAMED, json.dumps({"inputs": tensors}).encode(), "", "m", "1")
    assert question.inputs["data"].tolist() == [[2, 1], [4, 3]]
    assert rows.decode(NAMED, {"data": [{"size": None, "age": 2}]}).inputs["data"][0, 0] == 2


def test_columns_that_a_model_may_lack_and_those_of_a_model_that_says_nothing_keep_their_names() -> None:
    assert given(LENIENT, {"dataframe_split": {"columns": ["age"], "data": [[3]]}}) == [{"age": 3}]
    assert given(LENIENT, {"dataframe_records": [{"age": 3}, {"age": 4, "city": "Rome"}]}) == [
        {"age": 3},
        {"age": 4, "city": "Rome"},
    ]
    assert given(UNKNOWN, {"dataframe_split": {"columns": ["b", "a"], "data": [[1, 2]]}}) == [{"b": 1, "a": 2}]
    assert given(UNKNOWN, {"dataframe_records": [{"b": 1, "a": "x"}]}) == [{"b": 1, "a": "x"}]
    assert given(UNKNOWN, {"inputs": {"b": [1], "a": [2]}}) == [{"b": 1, "a": 2}]
    assert given(UNKNOWN, {"dataframe_split": {"data": [[1, 2]]}}) == [[1, 2]]


@pytest.mark.parametrize("facts", [TABLE, NAMED])
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["age", "height"], "lacks the columns {1}.*does not know the columns height"),
        (["age"], "lacks the columns {1} "),
        (["age", "{1}", "extra"], "names: it does not know the columns extra."),
        (["Age", "{1}"], "lacks the columns age .*does not know the columns Age"),
    ],
)
def test_columns_that_a_model_does_not_know_or_lacks_are_named_and_never_taken_in_their_order(
    facts: ModelFacts, names: list[str], sentence: str
) -> None:
    names = [one.replace("{1}", facts.columns[1]) for one in names]
    row = dict.fromkeys(names, 1)
    good = dict.fromkeys(facts.columns, 1)
    tensors = [{"name": one, "shape": [1], "datatype": "FP32", "data": [1]} for one in names]
    for body in (
        {"dataframe_split": {"columns": names, "data": [list(row.values())]}},
        {"dataframe_records": [row]},
        {"dataframe_records": [good, row]},
        {"instances": [row]},
        {"inputs": row},
        {"inputs": [good, row]},
    ):
        with pytest.raises(BadRequestError, match=sentence.replace("{1}", facts.columns[1])):
            mlflow_json.from_json(facts, body)
    with pytest.raises(BadRequestError, match=sentence.replace("{1}", facts.columns[1])):
        rows.decode(facts, {"data": [good, row]})
    with pytest.raises(BadRequestError, match=sentence.replace("{1}", facts.columns[1])):
        mlflow_json.decode(facts, (",".join(names) + "\n" + ",".join("1" * len(names))).encode(), "text/csv")
    if len(names) > 1:
        with pytest.raises(BadRequestError, match=sentence.replace("{1}", facts.columns[1])):
            open_inference.decode(facts, json.dumps({"inputs": tensors}).encode(), "", "m", "1")


@pytest.mark.parametrize("facts", [TABLE, NAMED, UNNAMED, UNKNOWN, replace(NETWORK, default="two")])
@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"dataframe_split": {"columns": ["age", "size"], "data": [[1, 2], [3]]}}, "Row 1 has not one value"),
        ({"dataframe_split": {"columns": ["age", "size"], "data": [[1, 2], 3]}}, "Row 1 has not one value"),
        ({"dataframe_split": {"columns": [["age"], "size"], "data": [[1, 2]]}}, "names of columns are texts"),
        ({"dataframe_split": {"columns": 7, "data": [[1, 2]]}}, "columns and data"),
        ({"dataframe_split": [1]}, "columns and data"),
        ({"dataframe_records": [{"age": 1, "size": 2}, {"age": 1}]}, "different columns|lacks the columns"),
        ({"dataframe_records": [{"age": 1}, 7]}, "list of objects"),
    ],
)
def test_a_table_whose_rows_do_not_fit_together_is_refused(facts: ModelFacts, body: Any, sentence: str) -> None:
    with pytest.raises(BadRequestError, match=sentence):
        mlflow_json.from_json(facts, body)


def test_columns_that_do_not_fit_together_are_refused() -> None:
    for body, sentence in (
        ({"dataframe_split": {"columns": ["age", "age"], "data": [[1, 2]]}}, "two columns of the name age"),
        ({"inputs": {"age": [1, 2], "size": [1]}}, "different lengths"),
        ({"inputs": [{"age": 1, "size": 2}, [1, 2]]}, "all lists, or all objects"),
        ({"inputs": {}}, "different lengths"),
    ):
        with pytest.raises(BadRequestError, match=sentence):
            mlflow_json.from_json(NAMED, body)


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

"""Values that are hard: each gets the model's right answer, or a sentence that says what does not fit."""

import json
from typing import Any

import numpy
import pytest
from sklearn import cluster, ensemble, linear_model, multioutput, tree
from sklearn.datasets import load_diabetes, load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runyard.protocol.scoring import OBJECT, TENSORS, ModelFacts, SignatureFacts, TensorFacts
from runyard.scoring import arrays
from runyard.scoring.builder import Builder
from runyard.scoring.compile import _sklearn, check
from runyard.scoring.loaded import said_of
from runyard.scoring.program import CompiledModel
from runyard.scoring.sklearn_model import SklearnModel
from runyard.scoring.walk_sklearn import SklearnWalk
from runyard.serving.dialects import onnx_json, open_inference, rows, tensorflow_rest
from runyard.serving.dialects.question import BadRequestError
from runyard.serving.dialects.values import loads, to_array
from tests.serving.fronts import raw, request, serving

MEASURES, PROGRESS = load_diabetes(return_X_y=True)
DIGITS, LABELS = load_digits(return_X_y=True)
X = TensorFacts("x", "float32", (-1, 2))
FACTS = ModelFacts(
    TENSORS,
    "TensorFlow",
    signatures={
        "serving_default": SignatureFacts((X,), (TensorFacts("y", "float32", (-1, 2)),)),
        "two": SignatureFacts((TensorFacts("i", "int64", (-1,)), TensorFacts("b", "bool", (-1,)))),
    },
    default="serving_default",
)


@pytest.mark.parametrize(
    ("dtype", "value", "found"),
    [
        ("int64", [2**53 + 1, 2.0], [2**53 + 1, 2]),
        ("int64", [2**63 - 1, -(2**63), 1e3], [2**63 - 1, -(2**63), 1000]),
        ("int64", [2**53 + 1, 2.5], "whole numbers .int64., and here is 2.5"),
        ("int64", [-1, 2**63], "and here is 9223372036854775808"),
        ("int64", [10**30], "and here is 1"),
        ("int64", [10**400], "takes numbers .int64."),
        ("int64", [float("nan")], "and here is nan"),
        ("int64", 1.5, "and here is 1.5"),
        ("uint8", [255, 256], "and here is 256"),
        ("uint8", [-1e17], "and here is -1"),
        ("bool", [True, 0, 1.0], [True, False, True]),
        ("bool", [True, 2], "takes true or false, and here is 2"),
        ("bool", [0.5], "takes true or false, and here is 0.5"),
        ("bool", [float("nan")], "takes true or false, and here is nan"),
        ("float16", [1.5, 70000], [1.5, float("inf")]),
        ("float32", [2**63, 2**64, 1e39], [2.0**63, 2.0**64, float("inf")]),
    ],
)
def test_a_number_becomes_what_the_input_takes_or_is_told(dtype: str, value: Any, found: Any) -> None:
    facts = TensorFacts("n", dtype, None)
    if isinstance(found, str):
        with pytest.raises(BadRequestError, match=found):
            to_array(value, facts)
    else:
        made = to_array(value, facts)
        assert made.dtype == dtype
        assert made.tolist() == found


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"inputs": {"x": [[1, 2]], "z": [1]}}, "takes the inputs x; given: x, z"),
        ({"inputs": {}}, "takes the inputs x; given: none"),
        ({"instances": [{"z": 1}]}, "has the values x; given: z"),
        ({"inputs": {"i": [1]}, "signature_name": "two"}, "takes the inputs i, b; given: i"),
        ({"instances": [{"i": 1, "b": True, "c": 1}], "signature_name": "two"}, "has the values i, b"),
    ],
)
def test_inputs_that_are_missing_or_too_many_are_named(body: Any, sentence: str) -> None:
    with pytest.raises(BadRequestError, match=sentence):
        tensorflow_rest.predict(FACTS, body)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"parameters": 5}, '"parameters" is an object'),
        ({"outputs": [{"name": "y", "parameters": 5}]}, '"parameters" is an object'),
        (
            {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2], "parameters": 5}]},
            "an object",
        ),
        (
            {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}] * 2},
            "two inputs of the name",
        ),
    ],
)
def test_an_inference_request_of_odd_parts_is_refused(more: Any, sentence: str) -> None:
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], **more}
    with pytest.raises(BadRequestError, match=sentence):
        open_inference.decode(FACTS, json.dumps(body).encode(), "", "m", "1")


def test_onnx_tensors_have_their_values_as_the_format_packs_them() -> None:
    def ask(dtype: str, number: int, **values: Any) -> Any:
        facts = ModelFacts(
            TENSORS, "Onnx", signatures={"d": SignatureFacts((TensorFacts("t", dtype, (-1,)),))}, default="d"
        )
        given = {"inputs": {"t": {"dims": [1], "dataType": number, **values}}}
        return onnx_json.decode(facts, given).inputs["t"].tolist()

    assert ask("float16", 10, int32Data=[15360]) == [1.0], "its bits"
    assert ask("int64", 7, int64Data=["9007199254740993"]) == [2**53 + 1], "its digits"
    assert ask(OBJECT, 8, stringData=["ü"]) == ["ü"]
    for dtype, number, values in (("int64", 7, {"int64Data": [1.5]}), ("bool", 9, {"int32Data": [2]})):
        with pytest.raises(BadRequestError, match="and here is"):
            ask(dtype, number, **values)
    facts = ModelFacts(TENSORS, "Onnx", signatures={"d": SignatureFacts((X,))}, default="d")
    body = {"inputs": {"x": {"dims": [1, 2], "dataType": 1, "floatData": [1, 2]}}, "outputFilter": ["other"]}
    with pytest.raises(BadRequestError, match="no output 'other'; it has y"):
        onnx_json.decode(facts, body).encode({"y": numpy.zeros(1)})


def test_what_is_no_number_is_said_alike_wherever_it_stands() -> None:
    nan = numpy.float32("nan")
    outputs = {"a": numpy.array([nan, 1]), "b": numpy.array([[nan], [1]])}
    question = tensorflow_rest.predict(FACTS, {"instances": [[1, 2], [1, 2]]})
    assert question.encode(outputs)[0] == b'{"predictions":[{"a":NaN,"b":[NaN]},{"a":1.0,"b":[1.0]}]}'
    assert question.encode({"a": outputs["a"]})[0] == b'{"predictions":[NaN,1.0]}'


def test_a_compiled_model_of_one_number_is_asked_for_one() -> None:
    facts = ModelFacts(
        TENSORS, "TensorFlow", signatures={"d": SignatureFacts((TensorFacts("c", "float32", ()),))}, default="d"
    )
    builder = Builder()
    builder.results["d"] = {"next": builder.add("Add", ["c", builder.constant(numpy.float32(1))])}
    with serving(CompiledModel(builder.program(facts), builder.constants)) as (port, _, _):
        for body, wanted in (
            (b'{"inputs": 5}', b'{"outputs":6.0}'),
            (b'{"inputs": null}', b'{"outputs":NaN}'),
            (b'{"inputs": [5]}', b"the model takes []."),
            (b'{"inputs": "5"}', b"and here is '5'."),
        ):
            assert wanted in raw(port, request(body)), body


def through(scorer: SklearnModel, body: dict[str, Any]) -> Any:
    """A request of v1's shape on its way to the model's process and back."""
    question = rows.decode(scorer.facts(), loads(json.dumps(body).encode()))
    asked = _sent(question.inputs)
    answer = _sent(scorer.predict(question.signature, asked))
    return json.loads(question.encode(answer)[0])


def _sent(tensors: dict[str, Any]) -> dict[str, Any]:
    described, buffers = arrays.pack(tensors)
    return arrays.unpack(json.loads(json.dumps(described)), b"".join(bytes(one) for one in buffers))


def test_a_method_of_null_is_the_default_and_others_are_told() -> None:
    scorer = SklearnModel(linear_model.LinearRegression().fit(MEASURES, PROGRESS))
    row = {"data": MEASURES[:1].tolist()}
    assert through(scorer, {**row, "method": None}) == through(scorer, row)
    for method in ("predict_proba", "transform", "fit", "__class__", "", 5):
        with pytest.raises(BadRequestError, match=f"no method '{method}'; it has predict"):
            through(scorer, {**row, "method": method})


@pytest.mark.parametrize("rows_count", [1, 2, 3])
def test_shares_of_several_outputs_go_by_rows_each_under_its_name(rows_count: int) -> None:
    wanted = numpy.stack([LABELS, LABELS > 4], axis=1).astype("int64")
    for estimator in (
        ensemble.RandomForestClassifier(3, random_state=0),
        multioutput.MultiOutputClassifier(tree.DecisionTreeClassifier(max_depth=3)),
    ):
        fitted = estimator.fit(DIGITS / 16, wanted)
        scorer, data = SklearnModel(fitted), DIGITS[:rows_count] / 16
        found = through(scorer, {"data": data.tolist(), "method": "predict_proba"})
        (digits, halves) = fitted.predict_proba(data)
        assert {name: numpy.shape(one) for name, one in found.items()} == {
            "predict_proba_0": (rows_count, 10),
            "predict_proba_1": (rows_count, 2),
        }
        numpy.testing.assert_allclose(found["predict_proba_0"], digits)
        numpy.testing.assert_allclose(found["predict_proba_1"], halves)
        assert [one.name for one in scorer.facts().signatures["predict_proba"].outputs] == list(found)
        assert through(scorer, {"data": data.tolist()})["predict"] == fitted.predict(data).tolist()


@pytest.mark.parametrize(
    "estimator",
    [
        cluster.KMeans(4, n_init=1, random_state=0),
        cluster.MiniBatchKMeans(4, n_init=1, random_state=0),
        make_pipeline(StandardScaler(), cluster.KMeans(4, n_init=1, random_state=0)),
    ],
)
def test_what_was_fitted_on_float32_takes_numbers_of_json(estimator: Any) -> None:
    fitted = estimator.fit(MEASURES.astype("float32"))
    scorer = SklearnModel(fitted)
    wanted = fitted.predict(MEASURES.astype("float32")).tolist()
    for _ in range(2):
        assert through(scorer, {"data": MEASURES.tolist()})["predict"] == wanted
    with pytest.raises(ValueError, match="infinity"):
        through(scorer, {"data": [[1e39] * 10]})


def test_what_numpy_does_not_know_everywhere_is_sent_as_what_it_knows() -> None:
    sent = _sent({"long": numpy.array([0.1], dtype="longdouble"), "span": numpy.array([5], dtype="timedelta64[s]")})
    assert sent["long"].dtype == "float64"
    assert sent["span"].dtype == object


def test_an_error_of_a_framework_is_told_without_the_places_in_its_code() -> None:
    said = (
        "Graph execution error:\n\nDetected at node add defined at (most recent call last):\n"
        '  File "/home/me/score.py", line 4, in <module>\n\n  File "/usr/lib/x.py", line 1, in f\n\n'
        "Incompatible shapes: [2,2] vs. [3,2]\n\t [[{{node add}}]] [Op:__inference_signature_wrapper_335]"
    )
    assert said_of(RuntimeError(said)) == "Incompatible shapes: [2,2] vs. [3,2]"
    assert said_of(RuntimeError("one\ntwo")) == "one two"
    assert said_of(RuntimeError('  File "x", line 1')) == 'File "x", line 1'


def test_a_compiled_model_that_answers_what_the_original_refuses_is_found_out() -> None:
    original = SklearnModel(linear_model.LinearRegression().fit(MEASURES, PROGRESS))
    assert check(original, CompiledModel(*_sklearn(original)))["why"] in ("", "it would be slower than the original")
    builder = Builder()
    # The same arithmetic without the operator that refuses.
    SklearnWalk(builder, "data").finish(original.estimator, ["predict"])
    unchecked = CompiledModel(builder.program(original.facts()), builder.constants)
    rows_of_two = {"data": MEASURES[:2]}
    numpy.testing.assert_allclose(
        unchecked.predict("predict", rows_of_two)["predict"], original.predict("predict", rows_of_two)["predict"]
    )
    assert check(original, unchecked)["why"] == "predict differs from the original for rows with nan: it answers them"


def test_no_row_is_refused_by_a_compiled_model_as_by_the_original() -> None:
    original = SklearnModel(linear_model.LinearRegression().fit(MEASURES, PROGRESS))
    made = CompiledModel(*_sklearn(original))
    for model, said in ((original, "0 sample"), (made, "There is no row")):
        with pytest.raises(ValueError, match=said):
            model.predict("predict", {"data": MEASURES[:0]})

"""Tables of numbers that are read from JSON's bytes: what they give is what the general reader gives, or nothing."""

import json
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard.protocol.scoring import ROWS, ModelFacts, SignatureFacts, TensorFacts
from runyard.serving.dialects.question import BadRequestError
from runyard.serving.dialects.table import table_question
from runyard.serving.dialects.values import loads
from runyard.serving.endpoint import FORMS, decode_any


def facts_of(dtype: str = "float64", columns: int = 2, rows: int = -1) -> ModelFacts:
    signature = SignatureFacts((TensorFacts("x", dtype, (rows, columns)),), (TensorFacts("y", dtype, (-1,)),))
    return ModelFacts(ROWS, "ScikitLearn", "1", {"predict": signature, "decide": signature}, "predict")


def read(body: bytes, facts: ModelFacts) -> Any:
    """(signature, array) by the table's reader; None where it leaves the body to the other."""
    found = table_question(facts, body, FORMS)
    return None if found is None else (found.signature, found.inputs["x"])


def read_slowly(body: bytes, facts: ModelFacts) -> Any:
    try:
        found = decode_any(facts, loads(body))
    except BadRequestError:
        return None
    return found.signature, found.inputs["x"]


def check(body: bytes, facts: ModelFacts) -> bool:
    """Was it read as a table? Then it is what the general reader finds."""
    found = read(body, facts)
    if found is None:
        return False
    wanted = read_slowly(body, facts)
    assert wanted is not None, body
    assert found[0] == wanted[0]
    assert found[1].dtype == wanted[1].dtype == facts.signatures["predict"].inputs[0].dtype
    assert found[1].shape == wanted[1].shape
    assert found[1].tobytes() == wanted[1].tobytes(), body
    return True


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "body",
    [
        '{"data": [[1.5, 2], [3, -0.0]]}',
        ' { "data" : [ [1, 2] ] } ',
        '{"data": [[1, 2]], "method": "decide"}',
        '{"method": "decide", "data": [[1, 2]]}',
        '{"instances": [[1, 2]]}',
        '{"inputs": [[1, 2]], "signature_name": "decide"}',
        '{"data": [[1e308, 5e-324], [1e39, -1e39]]}',
        '{"data": [[9007199254740993, 18446744073709551615]]}',
        '{"data": [[0.1, 2.2250738585072011e-308]]}',
        '{"d\\u0061ta": [[1, 2]]}',
    ],
)
def test_plain_tables_are_read(body: str, dtype: str) -> None:
    assert check(body.encode(), facts_of(dtype))


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "1", "null", '"data"', "{}", "[[1, 2]]", '{"data": []}', '{"data": [[]]}', '{"data": {}}',
        '{"data": [1, 2]}', '{"data": [[1]]}', '{"data": [[1, 2, 3]]}', '{"data": [[1, 2], [3]]}', '{"data": 1}',
        '{"data": [[1, "2"]]}', '{"data": [[1, null]]}', '{"data": [[1, true]]}', '{"data": [[1, [2]]]}',
        '{"data": [[1, [2, 3]], 4]}', '{"data": [[1, [2, 3]], [4]]}', '{"data": [[[1, 2]]]}', '{"data": ["[a"]}',
        '{"data": [{"a": 1, "b": 2}]}', '{"data": [{"a": [1], "b": [2]}]}', '{"data": [[1, {"a": 2}]]}',
        '{"data": [[1, 2]], "data": [[3, 4]]}', '{"data": [[1, 2]], "method": null}', '{"data": [[1, 2]], "other": 1}',
        '{"data": [[1, 2]], "method": "unheard"}', '{"data": [[1, 2]], "method": ["predict"]}', '{"method": "decide"}',
        '{"data": [[1, 2]], "instances": [[1, 2]]}', '{"data": [[1, 1e400]]}', '{"data": [[1, NaN]]}',
        '{"data": [[1, 123456789012345678901234567890]]}', '{"data": [[1, 2]]} 3', '{"data": [[1, 2],]}',
        '{"data": [[01, 2]]}', '{"data": [[1., 2]]}', "{'data': [[1, 2]]}", '\ufeff{"data": [[1, 2]]}',
        '{"data": ' + "[" * 5_000 + "]" * 5_000 + "}", '{"signature_name": "decide", "data": [[1, 2]]}',
    ],
)  # fmt: skip
def test_all_else_is_left_to_the_reader_that_has_words_for_it(body: str) -> None:
    assert read(body.encode(), facts_of()) is None
    # Nothing of it stays in the way of the next one.
    assert check(b'{"data": [[1, 2]]}', facts_of())


def test_bytes_that_are_no_text_are_left() -> None:
    facts = facts_of()
    assert read(b'{"data": [[1, 2]], "method": "\xff"}', facts) is None
    assert read(b'{"data": [[1, 2]]}\x00', facts) is None


@pytest.mark.parametrize(
    "facts",
    [facts_of("int64"), facts_of("object"), facts_of("bool"), facts_of(rows=1), facts_of("float16")],
    ids=["int64", "object", "bool", "one row", "float16"],
)
def test_other_inputs_are_left_to_the_general_reader(facts: ModelFacts) -> None:
    assert read(b'{"data": [[1, 2]]}', facts) is None


def test_an_array_stays_as_it_is_while_others_are_read() -> None:
    """The parser is one for all: an array that waits for its turn must not be its memory."""
    held = [read(json.dumps({"data": [[number, number]] * 500}).encode(), facts_of())[1] for number in range(20)]
    large = [read(json.dumps({"data": [[number, 0.5]] * 300_000}).encode(), facts_of())[1] for number in range(2)]
    for number, one in enumerate(held):
        assert (one == number).all()
    for number, one in enumerate(large):
        assert one.shape == (300_000, 2)
        assert (one[:, 0] == number).all()


NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1))
#: What a table is made of, and what it is not.
ITEMS = st.one_of(
    NUMBERS, st.none(), st.booleans(), st.text(max_size=3), st.lists(NUMBERS, max_size=3),
    st.dictionaries(st.text(max_size=2), NUMBERS, max_size=3),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=5), st.sampled_from(sorted(FORMS)))
def test_every_table_of_numbers_is_read(table: list[list[float]], form: str) -> None:
    body = json.dumps({form: table}).encode()
    is_whole = all(isinstance(one, int) for row in table for one in row)
    # NumPy takes whole numbers beyond both signs of 64 bits for objects, which are then refused.
    if not is_whole or numpy.array(table).dtype.kind in "iu":
        assert read(body, facts_of(columns=3)) is not None
        check(body, facts_of(columns=3))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(ITEMS, st.lists(ITEMS, max_size=3)), max_size=4), st.integers(0, 3))
def test_whatever_is_taken_for_a_table_is_one(data: list[Any], columns: int) -> None:
    check(json.dumps({"data": data}).encode(), facts_of(columns=columns))

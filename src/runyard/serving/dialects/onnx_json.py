"""ONNX Runtime Server's JSON: tensors as onnx.TensorProto has them, ``{"inputs": {name: {dims, dataType, ...}}}``."""

import base64
import binascii
from typing import Any, Dict

import numpy

from runyard.protocol.scoring import OBJECT, ModelFacts, TensorFacts
from runyard.serving.dialects.question import Arrays, BadRequestError, Question, Said
from runyard.serving.dialects.values import check_shape, objects, said, to_array

#: onnx.TensorProto.DataType by numpy's names.
TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, OBJECT: 8, "bool": 9,
    "float16": 10, "float64": 11, "uint32": 12, "uint64": 13,
}  # fmt: skip
_NAMES = {number: name for name, number in TYPES.items()}
_FIELDS = ("floatData", "doubleData", "int32Data", "int64Data", "uint64Data", "stringData")


def is_meant(found: Dict[str, Any]) -> bool:
    """Is this body in that shape?"""
    inputs = found.get("inputs")
    return (
        isinstance(inputs, dict)
        and bool(inputs)
        and all(isinstance(one, dict) and "dims" in one for one in inputs.values())
    )


def decode(facts: ModelFacts, found: Dict[str, Any]) -> Question:
    """Each input by its name; ``outputFilter`` names the outputs that are wanted."""
    signature = facts.signatures[facts.default]
    given = found["inputs"]
    names = [one.name for one in signature.inputs]
    if set(given) != set(names):
        raise BadRequestError(f"The model takes the inputs {', '.join(names)}; given: {', '.join(given)}.")
    inputs = {one.name: _tensor(given[one.name], one) for one in signature.inputs}
    wanted = found.get("outputFilter") or []
    if not isinstance(wanted, list):
        raise BadRequestError('"outputFilter" is a list of names.')
    return Question(facts.default, inputs, lambda outputs: _encode(outputs, wanted))


def _tensor(given: Dict[str, Any], facts: TensorFacts) -> Any:
    try:
        shape = [int(one) for one in given["dims"]]
        dtype = _NAMES[int(given["dataType"])]
        if min(shape, default=0) < 0:
            raise ValueError(shape)
    except (TypeError, ValueError, KeyError):
        raise BadRequestError(f"The input {facts.name!r} has dims and a dataType of ONNX's.") from None
    try:
        if "rawData" in given and dtype != OBJECT:
            array = numpy.frombuffer(base64.b64decode(given["rawData"], validate=True), dtype=dtype)
        else:
            field = next((one for one in _FIELDS if one in given), "")
            array = _array(given.get(field, []), field, dtype, facts.name)
        array = array.reshape(shape)
    except (binascii.Error, ValueError, TypeError, OverflowError):
        raise BadRequestError(f"The data of the input {facts.name!r} are not {shape} values of {dtype}.") from None
    if dtype != facts.dtype:
        raise BadRequestError(f"The input {facts.name!r} takes {facts.dtype}, and not {dtype}.")
    check_shape(array, facts)
    return array


def _array(values: Any, field: str, dtype: str, name: str) -> Any:
    if not isinstance(values, list):
        raise ValueError(values)
    if dtype == OBJECT:
        return objects(values)
    if field in ("int64Data", "uint64Data"):
        # As JSON has them: of whole numbers of that size, their digits.
        values = [int(one) if isinstance(one, str) else one for one in values]
    if dtype == "float16" and field == "int32Data":
        return numpy.array(values, dtype="uint16").view("float16")
    return to_array(values, TensorFacts(name, dtype, None))


def _encode(outputs: Arrays, wanted: Any) -> Said:
    for one in wanted:
        if one not in list(outputs):
            raise BadRequestError(f"This model has no output {one!r:.100}; it has {', '.join(outputs)}.")
    kept = {name: value for name, value in outputs.items() if not wanted or name in wanted}
    return said({"outputs": {name: _shown(numpy.asarray(value)) for name, value in kept.items()}})


def _shown(array: Any) -> Dict[str, Any]:
    shown: Dict[str, Any] = {"dims": [str(one) for one in array.shape]}
    if array.dtype.kind in "OUS":
        return {**shown, "dataType": TYPES[OBJECT], "stringData": array.reshape(-1)}
    raw = base64.b64encode(numpy.ascontiguousarray(array).tobytes()).decode()
    return {**shown, "dataType": TYPES.get(array.dtype.name, 1), "rawData": raw}

"""JSON and arrays: fast where the JSON is plain, and in words where it does not fit the model."""

import base64
import binascii
import json
from contextlib import suppress
from typing import Any, Dict, List

import numpy
import orjson

from runyard.protocol.scoring import OBJECT, TensorFacts
from runyard.serving.dialects.question import BadRequestError, Said
from runyard.serving.http import JSON

Array = Any
_NUMBERS = "biuf"
#: From here on not every whole number is a float64.
EXACT_MAX = 2.0**53


def loads(body: bytes) -> Any:
    """The JSON of a body; NaN and Infinity are taken, as Python's own json writes them."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"NaN" in body or b"Infinity" in body:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                pass
        raise BadRequestError(f"The body is not JSON: {error}.") from None


def load_object(body: bytes) -> Dict[str, Any]:
    """A JSON object."""
    found = loads(body)
    if not isinstance(found, dict):
        raise BadRequestError("The body is a JSON object.")
    return found


def dumps(value: Any) -> bytes:
    """JSON; arrays in it are written as lists, what is no number as NaN and Infinity."""
    arrays: List[Array] = []
    _collect(value, arrays)
    for one in arrays:
        if one.dtype.kind == "f" and not numpy.isfinite(one).all():
            break
    else:
        return orjson.dumps(value, default=_default, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(value, default=_default, separators=(",", ":")).encode()


def said(value: Any) -> Said:
    """An answer in JSON."""
    return dumps(value), JSON, None


def _collect(value: Any, arrays: List[Array]) -> None:
    if isinstance(value, (numpy.ndarray, numpy.floating)):
        arrays.append(value)
    elif isinstance(value, dict):
        for one in value.values():
            _collect(one, arrays)
    elif isinstance(value, list) and value and isinstance(value[0], (dict, numpy.ndarray)):
        for one in value:
            _collect(one, arrays)


def _default(value: Any) -> Any:
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"JSON has no form for a {type(value).__name__}.")


def to_array(value: Any, facts: TensorFacts) -> Array:
    """JSON as the tensor that an input takes; BadRequestError says what does not fit."""
    array = objects(value) if facts.dtype == OBJECT else _numbers(value, facts)
    wanted = facts.shape
    # By far the most requests: any number of rows of one length.
    if wanted is None or len(wanted) != 2 or array.ndim != 2 or wanted[0] != -1 or array.shape[1] != wanted[1]:
        check_shape(array, facts)
    return array


def check_shape(array: Array, facts: TensorFacts) -> None:
    """BadRequestError unless the array has the shape that the input takes."""
    wanted, found = facts.shape, array.shape
    if wanted is None or found == wanted:
        return
    if len(found) == len(wanted) and all(one in (-1, size) for one, size in zip(wanted, found, strict=True)):
        return
    if facts.dtype == OBJECT and len(found) == 1:
        return  # Rows as objects have their columns inside.
    shown = ", ".join("any" if one < 0 else str(one) for one in wanted)
    raise BadRequestError(f"The input {facts.name!r} has the shape {list(found)}; the model takes [{shown}].")


def _numbers(value: Any, facts: TensorFacts) -> Array:
    try:
        array = numpy.array(value)
    except (ValueError, OverflowError):
        raise BadRequestError(f"The input {facts.name!r} has rows of different lengths.") from None
    if array.dtype.kind not in _NUMBERS:
        array = _with_missing(array, facts)
    if array.dtype.name == facts.dtype:
        return array
    wanted = numpy.dtype(facts.dtype)
    with numpy.errstate(over="ignore", invalid="ignore"):
        if wanted.kind in "iu" and array.dtype.kind == "f" and (abs(array) >= EXACT_MAX).any():
            array = _whole(value)
        try:
            made = array.astype(wanted)
        except OverflowError:
            made = array.astype("float64").astype(wanted)
    if wanted.kind in "iub":
        is_other = numpy.asarray(made != array)
        if is_other.any():
            first = array[is_other].reshape(-1).tolist()[0] if array.ndim else array.item()
            kind = "true or false" if wanted.kind == "b" else f"whole numbers ({facts.dtype})"
            raise BadRequestError(f"The input {facts.name!r} takes {kind}, and here is {first!r:.60}.")
    return made


def _whole(value: Any) -> Array:
    """Numbers of which some are larger than a fraction can tell apart, each as it was written."""
    array = numpy.array(value, dtype=object)
    flat = [int(one) if isinstance(one, float) and one.is_integer() else one for one in array.reshape(-1).tolist()]
    made = numpy.empty(len(flat), dtype=object)
    made[:] = flat
    return made.reshape(array.shape)


def _with_missing(array: Array, facts: TensorFacts) -> Array:
    """null is NaN where the input takes fractions; texts are no numbers."""
    if array.dtype == object:
        flat = array.reshape(-1).tolist()
        may_lack = numpy.dtype(facts.dtype).kind == "f"
        # Whole numbers may be too large for any of numpy's.
        if all(isinstance(one, (int, float)) or (one is None and may_lack) for one in flat):
            with suppress(OverflowError):
                return array.astype("float64")
        if any(isinstance(one, list) for one in flat):
            raise BadRequestError(f"The input {facts.name!r} has rows of different lengths.")
    raise BadRequestError(f"The input {facts.name!r} takes numbers ({facts.dtype}), and here is {_first(array)!r:.60}.")


def _first(array: Array) -> Any:
    for one in array.reshape(-1).tolist():
        if not isinstance(one, (int, float)) or isinstance(one, bool):
            return one
    return array.dtype.name


def objects(value: Any) -> Array:
    """JSON as an array of objects: rows of objects or texts, or a table of anything."""
    if not isinstance(value, list):
        made = numpy.empty((), dtype=object)
        made[()] = _bytes_of(value)
        return made
    if not value or not isinstance(value[0], list):
        row = numpy.empty(len(value), dtype=object)
        row[:] = [_bytes_of(one) for one in value]
        return row
    parts = [objects(one) for one in value]
    if len({one.shape for one in parts}) != 1:
        raise BadRequestError("The rows have different lengths.")
    return numpy.stack(parts)


def _bytes_of(value: Any) -> Any:
    """TensorFlow Serving's {"b64": "..."}."""
    return unpacked(value) if isinstance(value, dict) and set(value) == {"b64"} else value


def unpacked(value: Dict[str, Any]) -> bytes:
    """The bytes of ``{"b64": "..."}``."""
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadRequestError("A b64 value is not base64.") from None

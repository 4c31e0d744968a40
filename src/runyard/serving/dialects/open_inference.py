"""Open Inference Protocol, version 2, over REST, with its extension for binary tensors.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

import struct
from typing import Any, Dict, List, Optional, Tuple

import numpy

from runyard.protocol.scoring import OBJECT, ROWS, ModelFacts, SignatureFacts, TensorFacts
from runyard.serving.dialects import rows
from runyard.serving.dialects.question import Arrays, BadRequestError, Question, Said
from runyard.serving.dialects.values import check_shape, dumps, load_object, objects, to_array
from runyard.serving.http import JSON

#: The protocol's names of numpy's types.
TYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    OBJECT: "BYTES",
}  # fmt: skip
_NAMES = {name: dtype for dtype, name in TYPES.items()}
HEADER_LENGTH = b"inference-header-content-length"


def decode(facts: ModelFacts, body: bytes, header_length: str, model: str, version: str) -> Question:
    """An inference request; ``header_length`` is the header of that name, '' where all is JSON."""
    split = int(header_length) if header_length.isdecimal() and len(header_length) < 20 else len(body)
    found, tail = load_object(body[:split]), memoryview(body)[split:]
    given = found.get("inputs")
    if not isinstance(given, list) or not given:
        raise BadRequestError('The body has "inputs", a list of tensors.')
    tensors = _tensors(given, tail)
    wanted = found.get("outputs") or []
    if not isinstance(wanted, list) or not all(isinstance(one, dict) for one in wanted):
        raise BadRequestError('"outputs" is a list of objects.')
    name = _signature(facts, wanted)
    inputs = _fitted(facts, facts.signatures[name].inputs, tensors)
    answer = {"model_name": model, "model_version": version, **({"id": found["id"]} if "id" in found else {})}
    all_binary = bool(_parameters(found).get("binary_data_output"))
    for one in wanted:
        _parameters(one)
    return Question(name, inputs, lambda outputs: _encode(outputs, answer, wanted, all_binary))


def metadata(facts: ModelFacts, model: str, version: str) -> Dict[str, Any]:
    """Inputs and outputs."""
    signature = facts.signatures.get(facts.default)
    taken, given = (signature.inputs, signature.outputs) if signature is not None else ((), ())
    return {
        "name": model, "versions": [version], "platform": f"runyard_{facts.framework.lower()}",
        "inputs": [_shown(one) for one in taken], "outputs": [_shown(one) for one in given],
    }  # fmt: skip


def _shown(one: TensorFacts) -> Dict[str, Any]:
    return {"name": one.name, "datatype": TYPES.get(one.dtype, "BYTES"), "shape": list(one.shape or (-1,))}


def _signature(facts: ModelFacts, wanted: List[Dict[str, Any]]) -> str:
    """The default one, or that whose output is asked for by name: predict_proba."""
    for one in wanted:
        name = one.get("name")
        if isinstance(name, str) and name in facts.signatures:
            return name
    return facts.default


def _tensors(given: List[Any], tail: memoryview) -> Dict[str, Any]:
    found, at = {}, 0
    for one in given:
        if not isinstance(one, dict) or not all(key in one for key in ("name", "shape", "datatype")):
            raise BadRequestError("Each input has a name, a shape, a datatype and data.")
        size = _parameters(one).get("binary_data_size")
        if size is None:
            array = _from_json(one)
        else:
            array, at = _from_bytes(one, tail, at, size)
        if str(one["name"]) in found:
            raise BadRequestError(f"There are two inputs of the name {str(one['name'])[:100]!r}.")
        found[str(one["name"])] = array
    return found


def _parameters(one: Dict[str, Any]) -> Dict[str, Any]:
    found = one.get("parameters") or {}
    if not isinstance(found, dict):
        raise BadRequestError('"parameters" is an object.')
    return found


def _dtype(one: Dict[str, Any]) -> str:
    dtype = _NAMES.get(str(one["datatype"]))
    if dtype is None:
        raise BadRequestError(f"There is no datatype {str(one['datatype'])[:40]!r}.")
    return dtype


def _from_json(one: Dict[str, Any]) -> Any:
    dtype = _dtype(one)
    if "data" not in one:
        raise BadRequestError(f"The input {one['name']!r} has no data.")
    if dtype == OBJECT:
        array = objects(one["data"])
    else:
        array = to_array(one["data"], TensorFacts(str(one["name"]), dtype, None))
    return _reshaped(array, one)


def _from_bytes(one: Dict[str, Any], tail: memoryview, at: int, size: Any) -> Tuple[Any, int]:
    if not isinstance(size, int) or not 0 <= size <= len(tail) - at:
        raise BadRequestError(f"The binary data of {one['name']!r} are not all there.")
    piece, dtype = tail[at : at + size], _dtype(one)
    if dtype == OBJECT:
        return _reshaped(_texts(piece), one), at + size
    try:
        array = numpy.frombuffer(piece, dtype=dtype)
    except ValueError:
        raise BadRequestError(f"The binary data of {one['name']!r} are no whole values of {dtype}.") from None
    return _reshaped(array, one), at + size


def _texts(piece: memoryview) -> Any:
    found, at = [], 0
    while at < len(piece):
        if at + 4 > len(piece):
            raise BadRequestError("Binary texts each begin with their length.")
        (length,) = struct.unpack_from("<I", piece, at)
        if at + 4 + length > len(piece):
            raise BadRequestError("A binary text is shorter than it says.")
        found.append(_text(bytes(piece[at + 4 : at + 4 + length])))
        at += 4 + length
    return objects(found)


def _text(data: bytes) -> Any:
    """Images and the like are no text, and stay what they are."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _reshaped(array: Any, one: Dict[str, Any]) -> Any:
    try:
        sizes = [int(size) for size in one["shape"]]
        if min(sizes, default=0) < 0:
            raise ValueError(sizes)
        return array.reshape(sizes)
    except (ValueError, TypeError):
        raise BadRequestError(f"The data of {one['name']!r} are not of the shape {one['shape']}.") from None


def _fitted(facts: ModelFacts, taken: Tuple[TensorFacts, ...], tensors: Dict[str, Any]) -> Arrays:
    """The request's tensors as the model's inputs: by name, or the only one for the only one, or by column."""
    names = [one.name for one in taken]
    if set(tensors) == set(names):
        inputs = {one.name: tensors[one.name] for one in taken}
    elif len(taken) == 1 and len(tensors) == 1:
        inputs = {names[0]: next(iter(tensors.values()))}
    elif len(taken) == 1 and (facts.kind == ROWS or facts.columns):
        columns = {name: value.reshape(-1).tolist() for name, value in tensors.items()}
        return rows.tensors(facts, SignatureFacts(taken), columns)
    else:
        raise BadRequestError(f"The model takes the inputs {', '.join(names)}; given: {', '.join(tensors)}.")
    for one in taken:
        array = inputs[one.name]
        if array.dtype.name != one.dtype and array.dtype.kind in "biuf" and one.dtype != OBJECT:
            inputs[one.name] = array = array.astype(one.dtype)
        elif array.dtype.kind in "biuf" and one.dtype == OBJECT:
            inputs[one.name] = array = array.astype(object)
        elif array.dtype == object and one.dtype != OBJECT:
            raise BadRequestError(f"The input {one.name!r} takes {TYPES[one.dtype]} and not BYTES.")
        check_shape(array, one)
    return inputs


def _encode(outputs: Arrays, answer: Dict[str, Any], wanted: List[Dict[str, Any]], all_binary: bool) -> Said:
    names = [str(one.get("name")) for one in wanted]
    kept = {name: value for name, value in outputs.items() if not names or name in names} or outputs
    shown, buffers = [], []
    for name, value in kept.items():
        array = numpy.asarray(value)
        dtype = TYPES.get(array.dtype.name, "BYTES")
        described: Dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": dtype}
        asked: Optional[bool] = next(
            ((one.get("parameters") or {}).get("binary_data") for one in wanted if one.get("name") == name), None
        )
        if (all_binary if asked is None else asked) and dtype != "BYTES":
            buffers.append(numpy.ascontiguousarray(array).tobytes())
            described["parameters"] = {"binary_data_size": len(buffers[-1])}
        else:
            described["data"] = array.reshape(-1)
        shown.append(described)
    text = dumps({**answer, "outputs": shown})
    if not buffers:
        return text, JSON, None
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return b"".join((text, *buffers)), "application/octet-stream", headers

"""Named arrays of numpy, as a message has them: described in its header, their bytes in its body, objects as JSON."""

from typing import Any, Dict, List, Optional, Tuple

from runyard.protocol.scoring import OBJECT, SignatureFacts

#: A numpy array, of whatever version of numpy the model's environment has.
Array = Any


def pack(arrays: Dict[str, Array]) -> Tuple[List[Dict[str, Any]], List[Any]]:
    """(descriptions, buffers) of named arrays."""
    import numpy

    described, buffers = [], []
    for name, value in arrays.items():
        array = numpy.asarray(value)
        if array.dtype.kind == "V" or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
            # Types of numbers that not every numpy knows, as TensorFlow's bfloat16.
            array = array.astype("float32" if array.dtype.kind == "V" else "float64")
        if array.dtype.kind in "OUSMm" or not array.dtype.isnative:
            values = _plain(array.astype(object))
            described.append({"name": name, "dtype": OBJECT, "shape": list(array.shape), "values": values})
        else:
            array = numpy.ascontiguousarray(array).reshape(array.shape)
            described.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
            buffers.append(array.reshape(-1).view("uint8"))
    return described, buffers


def unpack(described: List[Dict[str, Any]], body: Any) -> Dict[str, Array]:
    """The arrays of a message; those with bytes share the message's memory. ValueError where sizes do not agree."""
    import numpy

    arrays, at = {}, 0
    for one in described:
        shape = tuple(int(size) for size in one["shape"])
        if one["dtype"] == OBJECT:
            array = numpy.empty(shape, dtype=object)
            array[...] = _shaped(one["values"], shape, numpy)
        else:
            dtype = numpy.dtype(one["dtype"])
            if dtype.kind not in "biufc" or min(shape, default=0) < 0:
                raise ValueError(f"No tensor has the type {one['dtype']!r} and the shape {shape}.")
            count = int(numpy.prod(shape, dtype="int64"))
            array = numpy.frombuffer(body, dtype=dtype, count=count, offset=at).reshape(shape)
            at += count * dtype.itemsize
        arrays[one["name"]] = array
    return arrays


def check_ranks(signature: SignatureFacts, arrays: Dict[str, Array]) -> None:
    """ValueError where texts come in another number of dimensions: one text a row is for models that read rows."""
    for one in signature.inputs:
        if one.dtype == OBJECT and one.shape is not None and arrays[one.name].ndim != len(one.shape):
            wanted = ", ".join("any" if size < 0 else str(size) for size in one.shape)
            shape = list(arrays[one.name].shape)
            raise ValueError(f"The input {one.name!r} has the shape {shape}; the model takes [{wanted}].")


def zeros(signature: SignatureFacts) -> Optional[Dict[str, Array]]:
    """Inputs of zeros for that signature; None where a shape or a text is asked for that nobody can guess."""
    import numpy

    found = {}
    for one in signature.inputs:
        if one.shape is None or one.dtype == OBJECT:
            return None
        found[one.name] = numpy.zeros([max(size, 1) for size in one.shape], dtype=one.dtype)
    return found


def _shaped(values: Any, shape: Tuple[int, ...], numpy: Any) -> Array:
    flat = numpy.empty(int(numpy.prod(shape, dtype="int64")), dtype=object)
    items = values
    for _ in shape[1:]:
        items = [one for part in items for one in part]
    if not shape:
        items = [values]
    flat[:] = list(items)
    return flat.reshape(shape)


def _plain(array: Array) -> Any:
    """As JSON has it; bytes as their text, or in base64 where they are none."""
    if array.ndim == 0:
        return _plain_one(array.item())
    return [_plain(one) if getattr(one, "ndim", 0) else _plain_one(one) for one in array]


def _plain_one(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            import base64

            return {"b64": base64.b64encode(value).decode("ascii")}
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, dict):
        return {str(key): _plain_one(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_one(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)

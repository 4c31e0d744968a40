"""TensorFlow Serving's REST: instances or inputs to :predict, examples to :classify and :regress.

https://www.tensorflow.org/tfx/serving/api_rest
"""

import json
from typing import Any, Dict, Iterable, List

import numpy

from runyard.protocol.scoring import OBJECT, ModelFacts, SignatureFacts
from runyard.serving.dialects.question import Arrays, BadRequestError, Question, Said
from runyard.serving.dialects.rows import is_table, tensors
from runyard.serving.dialects.values import said, to_array, unpacked


def predict(facts: ModelFacts, found: Dict[str, Any]) -> Question:
    """``instances`` is a list with one item a row, ``inputs`` a tensor or tensors by name."""
    name = _signature_name(facts, found)
    signature = facts.signatures[name]
    if is_table(facts, signature) and ("instances" in found or "inputs" in found):
        encode = _said_by_rows if "instances" in found else _said_by_columns
        return Question(name, tensors(facts, signature, found.get("instances", found.get("inputs"))), encode)
    if "instances" in found:
        inputs = _by_rows(signature, found["instances"])
        return Question(name, inputs, _said_by_rows)
    if "inputs" in found:
        return Question(name, _by_columns(signature, found["inputs"]), _said_by_columns)
    raise BadRequestError('The body has "instances" (one item a row) or "inputs" (a tensor, or tensors by name).')


def examples(facts: ModelFacts, found: Dict[str, Any], method: str) -> Question:
    """``examples`` are features by name; only for a model with a signature of that method."""
    name = found.get("signature_name") or _signature_for(facts, method)
    signature = facts.signatures.get(name) if isinstance(name, str) else None
    if signature is None or signature.method != method or len(signature.inputs) != 1:
        raise BadRequestError(f"This model has no signature for {method}; ask its address that ends in :predict.")
    given, context = found.get("examples"), found.get("context") or {}
    if not isinstance(given, list) or not given or not all(isinstance(one, dict) for one in [*given, context]):
        raise BadRequestError('The body has "examples", a list of objects with features by name.')
    rows = [{**context, **one} for one in given]
    for row in rows:
        _check_features(row)
    taken = numpy.empty(len(rows), dtype=object)
    taken[:] = rows
    return Question(str(name), {signature.inputs[0].name: taken}, _SAID[method])


def _signature_for(facts: ModelFacts, method: str) -> str:
    """The default one where it is for that; else the first that is."""
    names = [facts.default, *sorted(facts.signatures)]
    return next((one for one in names if one in facts.signatures and facts.signatures[one].method == method), "")


def _check_features(row: Dict[str, Any]) -> None:
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        kinds = {_kind_of(one) for one in values}
        if "" in kinds or ("text" in kinds and len(kinds) > 1):
            raise BadRequestError(
                f"The feature {name[:100]!r} is a number, a text, an object with b64, or a list of such of one kind; "
                f"here is {json.dumps(value)[:60]}."
            )


def _kind_of(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"b64"}:
        unpacked(value)
        return "text"
    return "text" if isinstance(value, str) else "number" if isinstance(value, (bool, int, float)) else ""


def metadata(facts: ModelFacts, model: str, version: str) -> Dict[str, Any]:
    """The signatures, as TensorFlow Serving tells them."""
    shown = {
        name: {
            "inputs": {one.name: _shown(one) for one in signature.inputs},
            "outputs": {one.name: _shown(one) for one in signature.outputs},
            "method_name": f"tensorflow/serving/{signature.method}",
        }
        for name, signature in facts.signatures.items()
    }
    spec = {"name": model, "signature_name": "", "version": version}
    return {"model_spec": spec, "metadata": {"signature_def": {"signature_def": shown}}}


def _shown(one: Any) -> Dict[str, Any]:
    known = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "object": "DT_STRING"}
    dims = [{"size": str(size), "name": ""} for size in one.shape or ()]
    shape = {"dim": dims, "unknown_rank": one.shape is None}
    return {"dtype": known.get(one.dtype, "DT_" + one.dtype.upper()), "tensor_shape": shape, "name": one.name}


def _signature_name(facts: ModelFacts, found: Dict[str, Any]) -> str:
    name = found.get("signature_name") or facts.default
    if not isinstance(name, str) or name not in facts.signatures:
        raise BadRequestError(
            f"This model has no signature {name!r:.100}; it has {', '.join(sorted(facts.signatures))}."
        )
    return name


def _by_rows(signature: SignatureFacts, rows: Any) -> Arrays:
    if not isinstance(rows, list) or not rows:
        raise BadRequestError('"instances" is a list with at least one item.')
    names = [one.name for one in signature.inputs]
    if isinstance(rows[0], dict) and set(rows[0]) != {"b64"} and set(rows[0]) & set(names):
        if not all(isinstance(one, dict) and set(one) == set(names) for one in rows):
            raise BadRequestError(f"Each instance has the values {', '.join(names)}.")
        return {one.name: to_array([row[one.name] for row in rows], one) for one in signature.inputs}
    if len(names) != 1:
        raise BadRequestError(f"Each instance is an object with the values {', '.join(names)}.")
    if isinstance(rows[0], dict) and signature.inputs[0].dtype != OBJECT:
        raise BadRequestError(f"Each instance has the values {names[0]}; given: {_listed(rows[0])}.")
    return {names[0]: to_array(rows, signature.inputs[0])}


def _by_columns(signature: SignatureFacts, given: Any) -> Arrays:
    names = [one.name for one in signature.inputs]
    if isinstance(given, dict) and (len(names) != 1 or set(given) == set(names)):
        missing = [one for one in names if one not in given]
        if missing or len(given) != len(names):
            raise BadRequestError(f"The model takes the inputs {', '.join(names)}; given: {_listed(given)}.")
        return {one.name: to_array(given[one.name], one) for one in signature.inputs}
    if isinstance(given, dict) and signature.inputs[0].dtype != OBJECT:
        raise BadRequestError(f"The model takes the inputs {', '.join(names)}; given: {_listed(given)}.")
    if len(names) != 1:
        raise BadRequestError(f'"inputs" is an object with {", ".join(names)}.')
    return {names[0]: to_array(given, signature.inputs[0])}


def _listed(names: Iterable[str]) -> str:
    return (", ".join(names) or "none")[:500]


def _said_by_rows(outputs: Arrays) -> Said:
    if len(outputs) == 1:
        (only,) = outputs.values()
        return said({"predictions": only})
    counts = {value.shape[0] if value.ndim else -1 for value in outputs.values()}
    if len(counts) != 1 or -1 in counts:
        raise BadRequestError('The outputs of this signature do not go by rows; ask with "inputs".')
    rows: List[Dict[str, Any]] = [{name: value[at] for name, value in outputs.items()} for at in range(counts.pop())]
    return said({"predictions": rows})


def _said_by_columns(outputs: Arrays) -> Said:
    if len(outputs) == 1:
        (only,) = outputs.values()
        return said({"outputs": only})
    return said({"outputs": outputs})


def _said_classes(outputs: Arrays) -> Said:
    """``[label, score]`` for each class; a label or score that the model does not give is empty or 0."""
    scores, classes = outputs.get("scores"), outputs.get("classes")
    given = [one for one in (scores, classes) if one is not None]
    if not given or any(one.ndim != 2 or one.shape != given[0].shape for one in given):
        raise BadRequestError('This signature gives no "scores" or "classes" for each class of each example.')
    labels = numpy.full(given[0].shape, "", dtype=object) if classes is None else classes
    values = numpy.zeros(given[0].shape) if scores is None else scores
    pairs = zip(labels.tolist(), values.tolist(), strict=True)
    return said({"results": [[list(pair) for pair in zip(*row, strict=True)] for row in pairs]})


def _said_values(outputs: Arrays) -> Said:
    values = outputs.get("outputs") if len(outputs) > 1 else next(iter(outputs.values()))
    if values is None or values.ndim not in (1, 2) or values.shape[1:] not in ((), (1,)):
        raise BadRequestError('This signature gives no "outputs" of one number for each example.')
    return said({"results": values.reshape(-1)})


_SAID = {"classify": _said_classes, "regress": _said_values}
#: As table_question() takes them.
FORMS = {"instances": ("signature_name", _said_by_rows), "inputs": ("signature_name", _said_by_columns)}

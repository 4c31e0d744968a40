"""v1's own shape for scikit-learn: ``{"data": [...], "method": "predict"}``, answered by ``{"predict": [...]}``."""

from typing import Any, Dict

from runyard.protocol.scoring import ModelFacts, SignatureFacts
from runyard.serving.dialects.question import Arrays, BadRequestError, Question
from runyard.serving.dialects.values import said, to_array


def decode(facts: ModelFacts, found: Dict[str, Any]) -> Question:
    """``data`` holds rows: lists of values, or objects by column."""
    method = found.get("method", facts.default)
    if method not in facts.signatures:
        known = ", ".join(facts.signatures)
        raise BadRequestError(f"This model has no method {str(method)[:100]!r}; it has {known}.")
    if "data" not in found:
        raise BadRequestError('The body has "data": a list of rows.')
    return Question(method, tensors(facts.signatures[method], found["data"]), said)


def tensors(signature: SignatureFacts, data: Any) -> Arrays:
    """Rows as the one input that the model takes."""
    if len(signature.inputs) != 1:
        names = ", ".join(one.name for one in signature.inputs)
        raise BadRequestError(f'This model takes several inputs ({names}): send "inputs" with each by its name.')
    (taken,) = signature.inputs
    return {taken.name: to_array(data, taken)}

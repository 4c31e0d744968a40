"""v1's own shape for scikit-learn: ``{"data": [...], "method": "predict"}``, answered by ``{"predict": [...]}``."""

from collections import Counter
from typing import Any, Dict, Iterable, List

from runyard.protocol.scoring import OBJECT, ROWS, ModelFacts, SignatureFacts, TensorFacts
from runyard.serving.dialects.question import Arrays, BadRequestError, Question
from runyard.serving.dialects.values import said, to_array

#: Of names that do not fit, so many are told.
NAMES_MAX = 20
#: As table_question() takes it.
FORMS = {"data": ("method", said)}


def decode(facts: ModelFacts, found: Dict[str, Any]) -> Question:
    """``data`` holds rows: lists of values, or objects by column."""
    method = found.get("method")
    method = facts.default if method is None else method
    if not isinstance(method, str) or method not in facts.signatures:
        known = ", ".join(facts.signatures)
        raise BadRequestError(f"This model has no method {str(method)[:100]!r}; it has {known}.")
    if "data" not in found:
        raise BadRequestError('The body has "data": a list of rows.')
    return Question(method, tensors(facts, facts.signatures[method], found["data"]), said)


def is_table(facts: ModelFacts, signature: SignatureFacts) -> bool:
    """Does it take rows whose values may have names?"""
    return len(signature.inputs) == 1 and (facts.kind == ROWS or bool(facts.columns))


def tensors(facts: ModelFacts, signature: SignatureFacts, data: Any) -> Arrays:
    """Rows as the one input that the model takes: lists, objects by column, or one list for each column by its name."""
    if len(signature.inputs) != 1:
        names = ", ".join(one.name for one in signature.inputs)
        raise BadRequestError(f'This model takes several inputs ({names}): send "inputs" with each by its name.')
    (taken,) = signature.inputs
    if is_table(facts, signature):
        data = _arranged(facts, taken, data)
    return {taken.name: to_array(data, taken)}


def by_names(facts: ModelFacts, taken: TensorFacts, names: List[str], rows: List[List[Any]]) -> Any:
    """Rows with the names of their columns, as the model takes them: by names where it knows such, else in order."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadRequestError(f"There are two columns of the name {_listed(twice)}.")
    check_names(facts, names)
    if set(names) == set(facts.columns):
        places = [names.index(one) for one in facts.columns]
        return [[row[at] for at in places] for row in rows]
    # A model that has not said which columns it knows may still look for them.
    if facts.columns or taken.dtype == OBJECT:
        return [dict(zip(names, row, strict=True)) for row in rows]
    return rows


def check_names(facts: ModelFacts, given: Iterable[str]) -> None:
    """BadRequestError where columns that the model knows by name are missing, or others are there."""
    if not facts.columns:
        return
    found = set(given)
    missing = [one for one in facts.columns if one not in found and one not in facts.optional]
    unknown = sorted(found.difference(facts.columns))
    said = []
    if missing:
        said.append(f"a row lacks the columns {_listed(missing)} (null stands for a value that is missing)")
    if unknown:
        said.append(f"it does not know the columns {_listed(unknown)}")
    if said:
        raise BadRequestError(f"The model's columns have names: {', and '.join(said)}.")


def _listed(names: List[str]) -> str:
    return ", ".join(one[:100] for one in names[:NAMES_MAX]) + (", ..." if len(names) > NAMES_MAX else "")


def _arranged(facts: ModelFacts, taken: TensorFacts, data: Any) -> Any:
    if isinstance(data, dict):
        if set(data) == {taken.name} and taken.name not in facts.columns:
            return data[taken.name]
        return _of_columns(facts, taken, data)
    if not facts.columns or not isinstance(data, list) or not data or not isinstance(data[0], dict):
        return data
    known = set(facts.columns)
    for row in data:
        if not isinstance(row, dict):
            raise BadRequestError("The rows are all lists, or all objects by column.")
        if row.keys() != known:
            check_names(facts, row)
    return data if taken.dtype == OBJECT else [[row.get(name) for name in facts.columns] for row in data]


def _of_columns(facts: ModelFacts, taken: TensorFacts, columns: Dict[str, Any]) -> Any:
    """Of values alone there is one row."""
    lists = [one if isinstance(one, list) else [one] for one in columns.values()]
    if len({len(one) for one in lists}) != 1:
        raise BadRequestError("The columns have different lengths.")
    return by_names(facts, taken, list(columns), [list(row) for row in zip(*lists, strict=True)])

"""MLflow's ``/invocations``: dataframe_split, dataframe_records, instances, inputs; and CSV."""

import csv
import io
from typing import Any, Dict, List

from runyard.protocol.scoring import ModelFacts
from runyard.serving.dialects import tensorflow_rest
from runyard.serving.dialects.question import Arrays, BadRequestError, Question, Said
from runyard.serving.dialects.rows import by_names, check_names, is_table, tensors
from runyard.serving.dialects.values import load_object, said, to_array


def decode(facts: ModelFacts, body: bytes, content_type: str) -> Question:
    """An invocation, answered by ``{"predictions": [...]}``."""
    if content_type.partition(";")[0].strip() == "text/csv":
        return _rows(facts, *_parsed(body))
    return from_json(facts, load_object(body))


def from_json(facts: ModelFacts, found: Dict[str, Any]) -> Question:
    """One of the four shapes."""
    if "dataframe_split" in found:
        split = found["dataframe_split"]
        columns = (split.get("columns") or []) if isinstance(split, dict) else None
        if not isinstance(columns, list) or not isinstance(split.get("data"), list):
            raise BadRequestError('"dataframe_split" has columns and data.')
        return _rows(facts, columns, split["data"])
    if "dataframe_records" in found:
        records = found["dataframe_records"]
        if not isinstance(records, list) or not all(isinstance(one, dict) for one in records):
            raise BadRequestError('"dataframe_records" is a list of objects.')
        return _records(facts, records)
    signature = facts.signatures[facts.default]
    if is_table(facts, signature) and ("instances" in found or "inputs" in found):
        data = found.get("instances", found.get("inputs"))
        return Question(facts.default, tensors(facts, signature, data), _encode)
    question = tensorflow_rest.predict(facts, found)
    return Question(question.signature, question.inputs, _encode)


def _records(facts: ModelFacts, records: List[Dict[str, Any]]) -> Question:
    if facts.optional:
        return Question(facts.default, tensors(facts, facts.signatures[facts.default], records), _encode)
    columns = list(records[0]) if records else []
    for one in records:
        if one.keys() != records[0].keys():
            check_names(facts, one)
            raise BadRequestError("The records have different columns; null stands for a value that is missing.")
    return _rows(facts, columns, [[one[name] for name in columns] for one in records])


def _rows(facts: ModelFacts, columns: List[Any], rows: List[Any]) -> Question:
    """A table: by its columns' names where the model knows such, else by their order."""
    signature = facts.signatures[facts.default]
    if not columns:
        return Question(facts.default, tensors(facts, signature, rows), _encode)
    if not all(isinstance(one, (str, int)) for one in columns):
        raise BadRequestError("The names of columns are texts.")
    names = [str(one) for one in columns]
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise BadRequestError(f"Row {number} has not one value for each of the {len(names)} columns.")
    if len(signature.inputs) == 1:
        (taken,) = signature.inputs
        return Question(facts.default, {taken.name: to_array(by_names(facts, taken, names, rows), taken)}, _encode)
    if sorted(names) != sorted(one.name for one in signature.inputs):
        raise BadRequestError("The columns are the model's inputs: " + ", ".join(one.name for one in signature.inputs))
    values = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    return Question(facts.default, {one.name: to_array(values[one.name], one) for one in signature.inputs}, _encode)


def _parsed(body: bytes) -> Any:
    try:
        lines = list(csv.reader(io.StringIO(body.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequestError(f"The body is no CSV: {error}.") from None
    if not lines:
        raise BadRequestError("The CSV has no first line with the columns.")
    return lines[0], [[_number(one) for one in line] for line in lines[1:] if line]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None


def _encode(outputs: Arrays) -> Said:
    if len(outputs) == 1:
        (only,) = outputs.values()
        return said({"predictions": only})
    return said({"predictions": outputs})

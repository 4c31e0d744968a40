"""The labels of runs, datasets and models: their limits, and how a change of them is stored."""

from typing import Any, Dict, Optional

from runyard.errors import ConflictError, UserErrorException
from runyard.protocol.labels import LabelChange
from runyard.protocol.wire import dumps

#: Most tags or properties of one run, dataset or model, and the longest key and value, in characters.
LABELS_MAX, LABEL_KEY_MAX, LABEL_VALUE_MAX = 1_000, 255, 10_000


def check_labels(labels: Dict[str, str], what: str) -> None:
    """Refuse labels beyond the limits; ``what`` is one of them: a tag or a property."""
    if len(labels) > LABELS_MAX:
        raise UserErrorException(f"There are at most {LABELS_MAX} labels of one kind, not {len(labels)}.")
    for key, value in labels.items():
        if not 0 < len(key) <= LABEL_KEY_MAX:
            raise UserErrorException(f"A {what} name has 1 to {LABEL_KEY_MAX} characters, not {len(key)}.")
        if value is not None and len(value) > LABEL_VALUE_MAX:
            raise UserErrorException(f"A {what} value has at most {LABEL_VALUE_MAX} characters.")


def changed_values(tags: Dict[str, str], properties: Optional[Dict[str, str]], change: LabelChange) -> Dict[str, Any]:
    """The columns that a change sets; ``properties`` is None where the asset has none."""
    values: Dict[str, Any] = {}
    if change.description is not None:
        values["description"] = change.description
    if change.tags is not None or change.remove_tags:
        kept = {key: value for key, value in tags.items() if key not in change.remove_tags}
        kept.update(change.tags or {})
        check_labels(kept, "tag")
        values["tags"] = dumps(kept)
    if change.properties is not None:
        if properties is None:
            raise UserErrorException("A dataset has tags and a description, but no properties.")
        for key, value in change.properties.items():
            if properties.get(key, value) != value:
                raise ConflictError(f"Property {key!r} is set and cannot change.")
        check_labels(change.properties, "property")
        values["properties"] = dumps({**properties, **change.properties})
    return values

"""Tags and properties as v1's users give them."""

from typing import Any, Dict, Optional

from runyard.errors import UserErrorException


def label_texts(labels: Optional[Dict[Any, Any]]) -> Dict[str, str]:
    """Names and values as texts; UserErrorException for anything but a dict."""
    if labels is not None and not isinstance(labels, dict):
        raise UserErrorException(f"Tags and properties are a dict of names and values, not {labels!r}.")
    return {str(key): str(value) for key, value in (labels or {}).items()}


def has_labels(labels: Dict[str, str], wanted: Any) -> bool:
    """v1's filter: a list of keys, or of [key, value], or a dict."""
    if not wanted:
        return True
    if isinstance(wanted, dict):
        wanted = [[key, value] for key, value in wanted.items()]
    pairs = [wanted] if isinstance(wanted, str) else wanted
    if not (isinstance(pairs, (list, tuple, set)) and all(_is_wish(one) for one in pairs)):
        raise UserErrorException(
            f"A filter by labels is a list of names or of [name, value], or a dict, not {wanted!r}."
        )
    for one in pairs:
        key, value = (one, None) if isinstance(one, str) else (one[0], one[1])
        if key not in labels or (value is not None and labels[key] != str(value)):
            return False
    return True


def _is_wish(one: Any) -> bool:
    return isinstance(one, str) or (isinstance(one, (list, tuple)) and len(one) == 2 and isinstance(one[0], str))

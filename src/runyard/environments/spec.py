"""Conda YAML and pip requirement files to specs, and specs back to conda YAML."""

import itertools
import json
import re
from datetime import date
from typing import Any, List, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.environments import CondaSpec, PythonSpec, without_credentials

#: A larger file is no list of packages.
MAX_FILE_BYTES = 1024 * 1024

#: A conda file nests three levels; PyYAML takes seconds over a thousand.
MAX_BRACKETS_OPEN = 100

#: What one line may be long; a URL with a token fits.
MAX_LINE_CHARACTERS = 4096


def read_conda_yaml(text: str, where: str = "The conda file") -> CondaSpec:
    """The conda environment in ``text``; UserErrorException names the line and key that does not fit.

    ``where`` begins the error's sentence: the file's name. Keys that conda itself would not use for packages
    (prefix, platforms, variables) are passed over.
    """
    root = compose_yaml(text, where)
    if root is None:
        return CondaSpec()
    parts = {"name": "project_environment", "channels": (), "packages": (), "pip": ()}
    for key, value in _entries(root, where, "the file"):
        if key == "name":
            parts["name"] = _scalar(value, where, "name")
        elif key == "channels":
            parts["channels"] = tuple(_scalar(one, where, "channels") for one in _items(value, where, "channels"))
        elif key == "dependencies":
            parts["packages"], parts["pip"] = _dependencies(value, where)
    return CondaSpec(**parts)  # type: ignore[arg-type]


def write_conda_yaml(conda: CondaSpec) -> str:
    """``conda`` as YAML text that any conda reads, and read_conda_yaml gives back."""
    lines = ["name: " + _yaml_text(conda.name)]
    if conda.channels:
        lines.append("channels:")
        lines.extend("- " + _yaml_text(channel) for channel in conda.channels)
    lines.append("dependencies:" if conda.packages or conda.pip else "dependencies: []")
    lines.extend("- " + _yaml_text(package) for package in conda.packages)
    if conda.pip:
        lines.append("- pip:")
        lines.extend("  - " + _yaml_text(line) for line in conda.pip)
    return "\n".join(lines) + "\n"


def read_pip_requirements(text: str, where: str = "The requirements file") -> CondaSpec:
    """The environment of a pip requirements file; UserErrorException names the line that an environment cannot hold.

    Requirements and index options stay as they are; comments go; files that it includes are refused, since they do
    not travel with it.
    """
    _check_size(text, where)
    lines: List[str] = []
    pending = ""
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        line = pending + re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        if line.endswith("\\"):
            pending = line[:-1]
            continue
        pending = ""
        if line.strip():
            lines.append(_checked_pip_line(line.strip(), where, number))
    return CondaSpec(pip=tuple(lines))


def check_day(python: PythonSpec) -> None:
    """Refuse a python.as_of that is no day."""
    if python.as_of is not None and not is_day(python.as_of):
        raise UserErrorException(f"python.as_of is a day, written YYYY-MM-DD, not {str(python.as_of)[:40]!r}.")


def is_day(text: str) -> bool:
    """Is that a day, written YYYY-MM-DD?"""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def compose_yaml(text: str, where: str) -> Any:
    """The nodes of a YAML text, None for an empty one; UserErrorException, which ``where`` begins, for another text."""
    _check_size(text, where)
    depths = itertools.accumulate((one in "[{") - (one in "]}") for one in text)
    if max(depths, default=0) > MAX_BRACKETS_OPEN:
        raise UserErrorException(f"{where} is not valid YAML: more than {MAX_BRACKETS_OPEN} brackets are open.")
    try:
        import yaml
    except ImportError:
        raise UserErrorException("Reading YAML needs the package PyYAML; install it.") from None
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f" at line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "its structure cannot be read"
        raise UserErrorException(f"{where} is not valid YAML{place}: {problem}.") from None


def _check_size(text: str, where: str) -> None:
    if len(text) > MAX_FILE_BYTES:
        raise UserErrorException(f"{where} is larger than {MAX_FILE_BYTES} bytes.")


def _dependencies(node: Any, where: str) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    packages: List[str] = []
    pip: List[str] = []
    for item in _items(node, where, "dependencies"):
        if item.id != "mapping":
            packages.append(_scalar(item, where, "dependencies"))
            continue
        for key, value in _entries(item, where, "dependencies"):
            if key != "pip":
                problem = f"may hold package names and one 'pip' list, not '{key}'"
                raise _misfit(where, item, "dependencies", problem)
            for line in _items(value, where, "pip"):
                pip.append(_checked_pip_line(_scalar(line, where, "pip"), where, line.start_mark.line + 1))
    return tuple(packages), tuple(pip)


def _checked_pip_line(line: str, where: str, number: int) -> str:
    option = re.split(r"[\s=]", line, maxsplit=1)[0]
    if option in ("-r", "--requirement", "-c", "--constraint", "-e", "--editable") or re.match(r"-[rce]\S", line):
        shown = without_credentials(line)
        raise UserErrorException(
            f"{where}, line {number}: '{shown}' points to another file, which does not travel with the environment.",
            hint="List its packages here.",
        )
    if len(line) > MAX_LINE_CHARACTERS:
        raise UserErrorException(f"{where}, line {number} is longer than {MAX_LINE_CHARACTERS} characters.")
    return line


def _entries(node: Any, where: str, key: str) -> List[Tuple[str, Any]]:
    if node.id != "mapping":
        raise _misfit(where, node, key, "must be a mapping of keys to values")
    return [(_scalar(name, where, key), value) for name, value in node.value]


def _items(node: Any, where: str, key: str) -> List[Any]:
    if node.id == "scalar" and node.value in ("", "~", "null"):
        return []
    if node.id != "sequence":
        raise _misfit(where, node, key, "must be a list, each item on a line that begins with '-'")
    return list(node.value)


def _scalar(node: Any, where: str, key: str) -> str:
    if node.id != "scalar":
        raise _misfit(where, node, key, "must hold plain text")
    text = str(node.value).strip()
    if not text or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise _misfit(where, node, key, "has an empty item or one with control characters")
    return text


def _misfit(where: str, node: Any, key: str, problem: str) -> UserErrorException:
    return UserErrorException(f"{where}, line {node.start_mark.line + 1}: '{key}' {problem}.")


#: Text that YAML reads back as itself without quotes: it begins with a letter and holds no indicator.
_PLAIN = re.compile(r"^[A-Za-z_](?:[A-Za-z0-9_.=<>!~+\-/\[\]*;():]*[A-Za-z0-9_.*\])])?$")
_WORDS_OF_YAML = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


def _yaml_text(text: str) -> str:
    if _PLAIN.match(text) and text.lower() not in _WORDS_OF_YAML:
        return text
    # JSON's strings are YAML's double-quoted ones, but for what lies beyond the basic plane: that goes unescaped.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(character if character.isprintable() else _escaped(character) for character in quoted)


def _escaped(character: str) -> str:
    return f"\\U{ord(character):08x}"

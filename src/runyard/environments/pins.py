"""The pin doctor: a conda file's lines as pip knows them, what had to be changed, and which interpreter to take."""

import json
import os
import re
from typing import Dict, FrozenSet, List, Optional, Sequence, Tuple

from runyard.environments.pythons import Interpreter, minor_of
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import CondaSpec, Note, without_credentials
from runyard.protocol.record import record

#: The oldest Python that a job's side of Runyard runs on.
OLDEST_PYTHON = (3, 7)


@record
class PipWish:
    """A conda file in pip's terms."""

    #: Conda's constraint on the interpreter, as "=3.8"; empty: any.
    python: str
    requirements: Tuple[str, ...]
    options: Tuple[str, ...]
    notes: Tuple[Note, ...]
    #: PyPI names that came from conda's own list, and what they were called there.
    from_conda: Tuple[Tuple[str, str], ...] = ()


def translate(conda: CondaSpec) -> PipWish:
    """A conda file in pip's terms; EnvironmentBuildError for a line that has none."""
    python = ""
    requirements: List[str] = []
    options: List[str] = []
    notes: List[Note] = []
    named: Dict[str, str] = {}
    for line in conda.pip:
        _take_pip_line(line.strip(), requirements, options, notes)
    by_pip = {requirement_name(line) for line in requirements}
    for line in conda.packages:
        name, version = split_conda(line)
        if name == "python":
            python = "" if version.strip("= ") == "*" else version
            continue
        requirement = _from_conda(line, name, version, notes)
        if requirement is None or requirement_name(requirement) in by_pip:
            continue
        named[requirement_name(requirement)] = name
        requirements.append(requirement)
    return PipWish(python, tuple(requirements), tuple(options), tuple(notes), tuple(sorted(named.items())))


def needs_conda(conda: CondaSpec) -> Tuple[str, ...]:
    """The names in a conda file that pip has no counterpart for: programs, and versions that pip cannot say."""
    programs = conda_programs()
    found = []
    for line in conda.packages:
        name, version = split_conda(line)
        if name in programs or (name != "python" and not _is_sayable(version)):
            found.append(name)
    return tuple(found)


def conda_lines(conda: CondaSpec) -> Tuple[List[str], str, List[Note]]:
    """(Conda's packages as it reads them, its constraint on the interpreter, what the kit provides instead)."""
    packages: List[str] = []
    notes: List[Note] = []
    python = ""
    for line in conda.packages:
        name, version = split_conda(line)
        if name == "python":
            python = "" if version.strip("= ") == "*" else version
        elif name.startswith("azureml-"):
            notes.append(Note(name, line, "", "Runyard's own kit provides it"))
        else:
            packages.append(re.sub(r"\s+(?=[=<>!~])", "", line.strip()))
    return packages, python, notes


def _is_sayable(version: str) -> bool:
    try:
        to_pep440(version)
    except ValueError:
        return False
    return True


def split_conda(line: str) -> Tuple[str, str]:
    """Name (lower case, without channel) and constraint of a conda line: "pytorch::Torch =1.4" -> ("torch", "=1.4")."""
    text = line.split("::", 1)[-1].strip()
    match = _CONDA_LINE.match(text)
    if match is None:
        raise EnvironmentBuildError(
            f"The conda line '{without_credentials(line)}' cannot be read; write it as name=version."
        )
    return match.group(1).lower(), match.group(2).strip()


def to_pep440(version: str) -> str:
    """Conda's constraint in pip's syntax: "=1.2" -> "==1.2.*", "=1.2.3=py36_0" -> "==1.2.3"; ValueError if it has none.

    Source of the forms: conda's documentation of package match specifications.
    """
    if not version or version == "*":
        return ""
    if "|" in version:
        raise ValueError("alternatives ('|') have no counterpart in pip")
    return ",".join(filter(None, (_clause(part.strip()) for part in version.split(","))))


def requirement_name(line: str) -> str:
    """The normalised name of a requirement line ("Foo_Bar[x]>=1" -> "foo-bar"); empty for a bare URL or path."""
    match = _REQUIREMENT.match(line)
    return re.sub(r"[-_.]+", "-", match.group(1)).lower() if match else ""


def without_comment(line: str) -> str:
    """A requirement line without what its author noted behind it; a URL's own "#" stays."""
    return re.sub(r"(^|\s)#.*$", "", line).strip()


def without_options(line: str) -> str:
    """A requirement line alone: without comments, and without what pip takes behind it ("--hash=sha256:...")."""
    return re.sub(r"\s+\\?\s*--\S.*$", "", without_comment(line)).strip()


def hashes_of(line: str) -> Tuple[str, ...]:
    """The digests that a requirement line gives for its files: "sha256:..."."""
    return tuple(re.findall(r"--hash[=\s]+(\S+)", without_comment(line)))


def extras_of(line: str) -> Tuple[str, ...]:
    """The extras that a requirement line asks for, sorted: "Horovod[tensorflow]==1" -> ("tensorflow",)."""
    found = re.match(r"^[A-Za-z0-9._\-]+\s*\[([^\]]*)\]", line)
    return tuple(sorted(filter(None, (one.strip().lower() for one in (found.group(1) if found else "").split(",")))))


def choose_interpreter(wanted: str, available: Sequence[Interpreter], default: str) -> Interpreter:
    """The interpreter for conda's constraint ``wanted``: its minor version must be here.

    ``default`` is the minor version taken when ``wanted`` leaves the choice. EnvironmentBuildError says which Pythons
    this host has.
    """
    usable = [one for one in available if one.version[:2] >= OLDEST_PYTHON]
    fitting = [one for one in usable if _allows(wanted, one.version)]
    if fitting:
        best = [one for one in fitting if minor_of(one) == default] or fitting
        return max(best, key=lambda one: (one.version[:2], -fitting.index(one)))
    here = ", ".join(sorted({minor_of(one) for one in usable}, key=_minor_key)) or "none"
    asked = wanted.lstrip("=") or "3"
    raise EnvironmentBuildError(
        f"The environment asks for Python {asked}, and this host has {here} (3.7 is the oldest that a run can use).",
        hint=f"Install that Python, or change the line to python={default}.",
    )


def wanted_minor(wanted: str) -> Optional[str]:
    """The one minor version that conda's constraint names ("=3.6.2" -> "3.6"); None where it leaves a choice."""
    text = wanted.lstrip("=").split("=")[0].strip()
    found = re.match(r"^(\d+\.\d+)(?:\.[\d*]+)*$", text)
    return found.group(1) if found else None


def python_note(wanted: str, taken: Interpreter) -> Optional[Note]:
    """What to tell when the interpreter's patch release is not the one that was asked for; None if it is."""
    asked = re.match(r"^={1,2}(\d+\.\d+\.\d+)", wanted)
    got = ".".join(str(part) for part in taken.version)
    if asked is None or asked.group(1) == got:
        return None
    return Note("python", asked.group(1), got, "the same minor version; packages do not depend on the patch release")


#: What v1's packages for reading tables stand for here; older Arrows lack what our reader calls.
TABLE_ENGINE = "pyarrow>=6"
_READS_TABLES = ("azureml-dataprep", "azureml-dataset-runtime")
_CONDA_LINE = re.compile(r"^([A-Za-z0-9_][A-Za-z0-9_.\-]*)((?:\s*[=<>!~].*|\s+[0-9*].*)?)$")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9](?:[A-Za-z0-9._\-]*[A-Za-z0-9])?)\s*(?:$|[\[=<>!~;@\s(])")
_VERSION = re.compile(r"^[0-9][A-Za-z0-9_.+!*\-]*$")
_PASSED_OPTIONS = (
    "--index-url", "-i", "--extra-index-url", "--find-links", "-f", "--pre", "--no-index", "--trusted-host",
)  # fmt: skip


def _take_pip_line(line: str, requirements: List[str], options: List[str], notes: List[Note]) -> None:
    if "${" in line:
        # pip and uv would put a variable of the server there, which may hold an index's password.
        raise EnvironmentBuildError(f"The pip line '{without_credentials(line)}' holds a variable; write it out.")
    name = requirement_name(line)
    if name in _READS_TABLES:
        brought = [TABLE_ENGINE, *(["pandas"] if "pandas" in extras_of(line) else [])]
        notes.append(Note(name, without_credentials(line), " ".join(brought), "what reads tables here"))
        requirements.extend(one for one in brought if one not in requirements)
    elif name == "azureml" or name.startswith("azureml-"):
        notes.append(Note(name, without_credentials(line), "", "Runyard's own kit provides it"))
    elif not line.startswith("-"):
        requirements.append(line)
    elif re.split(r"[\s=]", line, maxsplit=1)[0] not in _PASSED_OPTIONS:
        shown = without_credentials(line)
        raise EnvironmentBuildError(f"The pip line '{shown}' is not supported in an environment; list the packages.")
    elif line.startswith("--trusted-host"):
        notes.append(Note("--trusted-host", line, "", "certificates are always checked; name the host's certificate"))
    else:
        options.append(line)


def _from_conda(line: str, name: str, version: str, notes: List[Note]) -> Optional[str]:
    renamed, left_out = conda_names()
    if name == "pip" or name.startswith("azureml-"):
        if name != "pip":
            notes.append(Note(name, line, "", "Runyard's own kit provides it"))
        return None
    if name in left_out:
        notes.append(Note(name, line, "", left_out[name]))
        return None
    try:
        requirement = renamed.get(name, name) + to_pep440(version)
    except ValueError as error:
        raise EnvironmentBuildError(
            f"The conda line '{line}' cannot be had from PyPI: {error}.", hint="Pin one version."
        ) from None
    if name in renamed:
        notes.append(Note(name, line, requirement, "its name on PyPI"))
    return requirement


def _clause(part: str) -> str:
    exact_build = re.match(r"^={1,2}\s*([^=\s]+)\s*=\s*([^=]+)$", part)
    if exact_build:
        # A build string such as py36h_0 names conda's own binary; '*' or none leaves the version a prefix.
        version, build = exact_build.groups()
        if version == "*":
            return ""
        return _prefix(version) if build.strip() == "*" else "==" + _checked(version)
    operator, version = _split_operator(part)
    if version == "*" and operator in ("", "=", "==", ">="):
        return ""
    if operator == "=":
        return _prefix(version)
    if operator in ("", "=="):
        return _prefix(version) if version.endswith("*") else "==" + _checked(version.split("=")[0].split(" ")[0])
    if operator in (">", ">=", "<", "<=") and version.endswith("*"):
        version = version.rstrip("*").rstrip(".")
    return operator + _checked(version)


def _split_operator(part: str) -> Tuple[str, str]:
    match = re.match(r"^(==|>=|<=|!=|~=|=|>|<)?\s*(.*)$", part, re.DOTALL)
    assert match is not None  # Every part of the pattern is optional.
    return match.group(1) or "", match.group(2).strip()


def _prefix(version: str) -> str:
    return "=={}.*".format(_checked(version.rstrip("*").rstrip(".")))


def _checked(version: str) -> str:
    if not _VERSION.match(version):
        raise ValueError(f"'{version}' is not a version")
    return version


def _allows(wanted: str, version: Tuple[int, ...]) -> bool:
    """Does conda's constraint allow this interpreter, by minor version (patch releases count as equal)?"""
    try:
        clauses = [clause for clause in to_pep440(wanted).split(",") if clause]
    except ValueError:
        return False
    return all(_clause_allows(clause, version) for clause in clauses)


def _clause_allows(clause: str, version: Tuple[int, ...]) -> bool:
    operator, text = _split_operator(clause)
    numbers = tuple(int(part) for part in re.findall(r"\d+", text))
    depth = min(len(numbers), 2)
    have, want = version[:depth], numbers[:depth]
    if operator == "==":
        return have == want
    if operator == "!=":
        return have != want or len(numbers) > depth
    if operator == "~=":
        return version[:1] == numbers[:1] and version[:2] >= numbers[:2]
    if operator == ">=":
        return have >= want
    if operator == "<=":
        # "<=3.8" is 3.8.0 to people who wrote conda files, and every 3.8 to their readers.
        return have <= want
    if operator == ">":
        return have > want or (have == want and len(numbers) > depth)
    return have < want or (have == want and len(numbers) > depth and numbers[2] > 0)


def _minor_key(minor: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in minor.split("."))


_names: List[Tuple[Dict[str, str], Dict[str, str]]] = []


def conda_names() -> Tuple[Dict[str, str], Dict[str, str]]:
    """Conda's names that PyPI spells otherwise, and those that are no Python package, with the reason."""
    if not _names:
        with open(os.path.join(os.path.dirname(__file__), "conda_names.json"), encoding="utf-8") as stream:
            data = json.load(stream)
        left_out = {name: why for why, names in data["left_out"].items() for name in names}
        _names.append((data["renamed"], left_out))
    return _names[0]


#: Why a name is left out that is no library, as conda_names.json has it.
_PROGRAM = "a program and not a Python package; install it on the host if the script calls it"


def conda_programs() -> FrozenSet[str]:
    """Conda's packages that are programs."""
    return frozenset(name for name, why in conda_names()[1].items() if why == _PROGRAM)

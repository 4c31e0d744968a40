"""What uv's complaint means: the package to blame, and what would work instead."""

import re
from typing import Callable, Mapping, Optional, Sequence, Tuple

from runyard.environments.pins import requirement_name
from runyard.environments.uv import UvResult
from runyard.errors import AzureMLException, EnvironmentBuildError, StorageFullError
from runyard.protocol.record import record

_VERSIONS = r"(?:(?:==|>=|<=|~=|!=|<|>)[^\s,`]+(?:, ?[<>=!~][^\s,`]+)*)?"
_PACKAGE = r"`?([A-Za-z0-9][A-Za-z0-9._\-]*(?:\[[^\]]*\])?" + _VERSIONS + ")`?"
_NO_SPACE = r"No space left on device|os error 28|Disk quota exceeded|os error 122"
_UNREACHABLE = r"Failed to fetch: `?([^\s`]+)|error sending request for url \((\S+)\)|dns error"
_UNKNOWN = r"(?:Because |and )" + _PACKAGE + r" was not found in the (?:package registry|provided)"
_NO_VERSION = r"there (?:is|are) no versions? of " + _PACKAGE
_NO_WHEEL = _PACKAGE + r" has no (?:usable )?(?:wheels|source distribution)"
_ABI_TAGS = r"ABI tags?:((?:[^`\n]*`[^`]+`)+)"
_NEEDS_PYTHON = _PACKAGE + r" (?:depends on|requires) Python\s*([<>=!~][^\s`,]*)"
_BUILD_FAILED = r"(?:Failed to build|Failed to download and build) " + _PACKAGE
_FIRST_CAUSE = r"cause: (.+)|error: (.+)"


@record
class Blame:
    """The sentence about a failure, and one about what would work."""

    sentence: str
    remedy: str = ""


def error_of(
    result: UvResult, python: str, *, newest: Callable[[str], Optional[str]], from_conda: Mapping[str, str]
) -> AzureMLException:
    """The error to raise for a failed call of uv: what failed, what would work, uv's own last lines.

    ``newest`` gives the newest version of a package for this Python, or None; ``from_conda`` the names that conda has
    for packages that came from its list.
    """
    text = "\n".join(result.tail)
    if re.search(_NO_SPACE, text):
        return StorageFullError("There is no space left on the disk where environments are built; make room there.")
    blame = _find_blame(text, python, newest, from_conda)
    said = "The last lines of uv:\n" + text if text else ""
    hint = "\n".join(part for part in (blame.remedy, said) if part)
    return EnvironmentBuildError(blame.sentence, hint=hint or None)


def _find_blame(text: str, python: str, newest: Callable[[str], Optional[str]], from_conda: Mapping[str, str]) -> Blame:
    flat = re.sub(r"\s*\n\s+", " ", text)
    unknown = re.search(_UNKNOWN, flat)
    if unknown:
        return _unknown_package(unknown.group(1), from_conda)
    tags = re.search(_ABI_TAGS, flat)
    no_wheel = re.search(_NO_WHEEL, flat)
    if no_wheel:
        return _no_wheel(no_wheel.group(1), python, _pythons_of(tags.group(1) if tags else ""), newest)
    needs = re.search(_NEEDS_PYTHON, flat)
    if needs and "does not satisfy Python" in flat:
        return Blame(
            f"{needs.group(1)} needs Python{needs.group(2)}, and the environment has {python}.",
            "Change the python line, or leave out the version of that package.",
        )
    missing = re.search(_NO_VERSION, flat)
    if missing:
        return _no_version(missing.group(1), python, newest)
    failed = re.search(_BUILD_FAILED, flat)
    if failed:
        return Blame(
            f"{failed.group(1)} has no wheel for Python {python}, and building it from its source failed.",
            "Pin a version that has a wheel, or install what its build lacks on the host (the log says what).",
        )
    return _other(text)


def _unknown_package(package: str, from_conda: Mapping[str, str]) -> Blame:
    conda_name = from_conda.get(requirement_name(package))
    if conda_name is None:
        return Blame(f"The package {package} does not exist in the package index.", "Check its spelling.")
    return Blame(
        f"The conda package {conda_name} has no package of that name in the package index.",
        "Put the name that pip knows into the pip section, or leave the line out.",
    )


def _no_wheel(package: str, python: str, pythons: Sequence[str], newest: Callable[[str], Optional[str]]) -> Blame:
    name = requirement_name(package)
    version = newest(name)
    has = "; it has wheels for Python {}".format(", ".join(pythons)) if pythons else ""
    choices = ["python=" + pythons[-1]] if pythons else []
    choices += [f"{name}=={version}"] if version else []
    remedy = "What would work: {}.".format(" or ".join(choices)) if choices else ""
    return Blame(f"{package} has no wheel for Python {python}{has}.", remedy)


def _no_version(package: str, python: str, newest: Callable[[str], Optional[str]]) -> Blame:
    name = requirement_name(package)
    version = newest(name)
    remedy = f"The newest for this Python is {name}=={version}." if version else ""
    return Blame(f"{package} does not exist in the package index for Python {python}.", remedy)


def _pythons_of(tags: str) -> Tuple[str, ...]:
    """Minor versions of ABI tags: "`cp37m`, `cp38`" -> ("3.7", "3.8")."""
    minors = sorted({int(minor) for minor in re.findall(r"`cp3(\d+)", tags)})
    return tuple(f"3.{minor}" for minor in minors)


def _other(text: str) -> Blame:
    unreachable = re.search(_UNREACHABLE, text)
    if unreachable:
        place = next((group for group in unreachable.groups() if group), "its address")
        return Blame(f"The package index could not be reached ({place}).", "Check the network and the index settings.")
    causes = [first or second for first, second in re.findall(_FIRST_CAUSE, text)]
    if "No solution found" in text:
        contradiction = next((cause for cause in causes if cause.startswith("Because")), "no set of versions fits")
        return Blame("The packages of the environment contradict each other: {}.".format(contradiction.rstrip(".")))
    reason = next(iter(causes), "it gave no reason")
    return Blame("The environment cannot be built: {}.".format(reason.rstrip(".")))

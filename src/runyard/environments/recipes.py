"""Packages that are built from source in a way of their own: the data file beside this says how."""

import json
import os
import re
from functools import lru_cache
from typing import Any, Collection, Dict, Iterable, List, Mapping, Sequence, Tuple

from runyard.environments.pins import extras_of, hashes_of, requirement_name
from runyard.protocol.environments import SourceBuild

_URL_LINE = re.compile(r"^[^=<>!~;#(]*@")


def split_sources(requirements: Iterable[str]) -> Tuple[List[str], List[str]]:
    """(what the resolver is asked for, the lines that have a recipe). What a recipe needs is asked for too.

    A line that names a URL is for the resolver: it says itself what is to be built.
    """
    lines = list(requirements)
    special = [line for line in lines if requirement_name(line) in _recipes() and not _URL_LINE.match(line)]
    plain = [line for line in lines if line not in special]
    named = {requirement_name(line) for line in plain}
    for line in special:
        for needed in _needs(line):
            if requirement_name(needed) not in named:
                plain.append(needed)
                named.add(requirement_name(needed))
    return plain, special


def _needs(line: str) -> List[str]:
    """What the package and the extras that the line asks for need: a resolver does not see it."""
    recipe = _recipes()[requirement_name(line)]
    return [*recipe["requires"]] + [one for extra in extras_of(line) for one in recipe["extras"].get(extra, ())]


def source_build(line: str, version: str, beside: Collection[str]) -> SourceBuild:
    """How to build that version of a line's package; ``beside`` are the names of what is installed with it."""
    name, extras = requirement_name(line), extras_of(line)
    recipe = _recipes()[name]
    variables: Dict[str, str] = dict(recipe["variables"])
    for case in recipe["beside"]:
        variables.update(case["present" if set(case["packages"]) & set(beside) else "absent"])
    asked = f"{name}[{','.join(extras)}]" if extras else name
    return SourceBuild(f"{asked}=={version}", variables, dict(recipe["programs"]), hashes_of(line))


def why_built(name: str) -> str:
    """Why that package has a recipe."""
    return str(_recipes()[name]["why"])


def missing_programs(build: SourceBuild, folders: Sequence[str]) -> Mapping[str, str]:
    """The programs that the build needs and that none of ``folders`` has, with the Debian package of each."""
    return {
        program: package
        for program, package in build.programs.items()
        if not any(os.access(os.path.join(folder, program), os.X_OK) for folder in folders)
    }


@lru_cache(maxsize=1)
def _recipes() -> Dict[str, Any]:
    with open(os.path.join(os.path.dirname(__file__), "recipes.json"), encoding="utf-8") as stream:
        found: Dict[str, Any] = json.load(stream)
    return found

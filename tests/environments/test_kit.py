"""The kit: two top-level names, every Python from 3.7, and nothing of a site-packages."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from runyard.environments.kit import PARTS, compile_kit, find_kit, make_kit
from runyard.environments.pythons import Interpreter, find_interpreters, minor_of
from runyard.errors import EnvironmentBuildError

_MINORS = {minor_of(one): one for one in reversed(find_interpreters())}
NEW_ENOUGH: list[Interpreter] = [one for one in _MINORS.values() if one.version >= (3, 7)]
TOO_OLD: list[Interpreter] = [one for one in _MINORS.values() if one.version < (3, 7)]

_LOOK = """
import json, sys
plain = set(sys.argv[1].split(":"))
import runyard.errors, runyard.protocol.environments, runyard.protocol.wire, azureml
print(json.dumps({
    "gained": [p for p in sys.path if p and p not in plain],
    "tops": sorted({m.split(".")[0] for m in sys.modules
                    if (getattr(sys.modules[m], "__file__", None) or "").startswith(sys.argv[2])}),
    "compiled": runyard.errors.__cached__,
    "path": list(azureml.__path__),
}))
"""


def test_the_kit_is_made_once_and_holds_two_names(tmp_path: Path) -> None:
    kit = make_kit(str(tmp_path))
    assert make_kit(str(tmp_path)) == kit == find_kit(str(tmp_path), kit.version_digest)
    assert sorted(os.listdir(kit.folder)) == ["azureml", "runyard"]
    assert os.listdir(tmp_path) == [kit.version_digest]
    inside = set(os.listdir(os.path.join(kit.folder, "runyard")))
    assert inside <= set(PARTS)
    assert not inside & {"cli", "compute", "control", "db", "environments", "runner", "server"}
    assert inside >= {"__init__.py", "errors.py", "protocol"}


@pytest.mark.parametrize("interpreter", NEW_ENOUGH, ids=minor_of)
def test_the_kit_imports_under_every_python(tmp_path: Path, interpreter: Interpreter) -> None:
    kit = make_kit(str(tmp_path))
    compile_kit(kit, interpreter.path)
    # No -E, which would hide the one variable that is wanted: the environment itself is empty but for it.
    plain = subprocess.run(
        [interpreter.path, "-S", "-c", "import sys; print(':'.join(sys.path))"],
        env={},
        stdout=subprocess.PIPE,
        check=True,
    )
    answer = subprocess.run(
        [interpreter.path, "-S", "-B", "-c", _LOOK, plain.stdout.decode().strip(), kit.folder],
        env={"PYTHONPATH": kit.folder},
        stdout=subprocess.PIPE,
        check=True,
    )
    seen = json.loads(answer.stdout.decode())
    assert seen["gained"] == [kit.folder]
    assert seen["tops"] == ["azureml", "runyard"]
    assert os.path.exists(seen["compiled"])
    assert seen["path"] == [os.path.join(kit.folder, "runyard", "azureml")]


def test_byte_code_survives_a_change_of_times(tmp_path: Path) -> None:
    kit = make_kit(str(tmp_path))
    compile_kit(kit, NEW_ENOUGH[0].path)
    compiled = next(Path(kit.folder, "runyard", "__pycache__").glob("errors.*.pyc"))
    # PEP 552: flags 1 = named by hash and never checked against the source.
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"


def test_compiling_again_changes_nothing(tmp_path: Path) -> None:
    kit = make_kit(str(tmp_path))
    compile_kit(kit, NEW_ENOUGH[0].path)
    compiled = next(Path(kit.folder, "runyard", "__pycache__").glob("errors.*.pyc"))
    before = compiled.stat().st_mtime_ns
    compile_kit(kit, NEW_ENOUGH[0].path)
    assert compiled.stat().st_mtime_ns == before


@pytest.mark.parametrize("interpreter", TOO_OLD, ids=minor_of)
def test_an_older_python_is_refused_with_a_sentence(tmp_path: Path, interpreter: Interpreter) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"3\.7 or newer"):
        compile_kit(make_kit(str(tmp_path)), interpreter.path)


@pytest.mark.parametrize("name", ["0.0.0-none", "../etc", "", "a/b"])
def test_a_kit_that_is_not_here_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EnvironmentBuildError, match="not on this host"):
        find_kit(str(tmp_path / "kits"), name)


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="/no/python"):
        compile_kit(make_kit(str(tmp_path)), "/no/python")


def test_the_protocol_of_environments_reads_the_same_on_every_python() -> None:
    source = os.path.dirname(os.path.dirname(os.path.dirname(make_kit.__code__.co_filename)))
    code = (
        "from runyard.protocol.environments import *; from runyard.protocol import wire\n"
        "from runyard.environments import blame, build, curated, folder, kit\n"
        "from runyard.environments import pins, pythons, realise, resolve, spec, uv\n"
        "s = curated.get_curated('AzureML-TensorFlow-2.2-GPU')\n"
        "assert wire.loads(EnvironmentSpec, wire.dumps(s)) == s\n"
        "print(spec_digest(s), len(pins.translate(s.python.conda).requirements))"
    )
    answers = {
        subprocess.run(
            [one.path, "-S", "-c", code], env={"PYTHONPATH": source}, stdout=subprocess.PIPE, check=True
        ).stdout
        for one in NEW_ENOUGH
    }
    assert len(answers) == 1

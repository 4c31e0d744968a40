"""From specs to locks, with an index made of a few local wheels."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.pythons import Interpreter, find_interpreters, running_minor
from runyard.environments.resolve import resolve, user_interpreter
from runyard.environments.uv import tool_environment
from runyard.errors import EnvironmentBuildError, UserErrorException
from runyard.protocol.environments import (
    Builder,
    CondaSpec,
    DockerSpec,
    EnvironmentSpec,
    Lock,
    PythonSpec,
    lock_digest,
    spec_digest,
    without_credentials,
)
from tests.environments.packages import make_wheel, source_of


def spec_of(*pip: str, packages: tuple[str, ...] = (), **python: Any) -> EnvironmentSpec:
    return EnvironmentSpec("mine", python=PythonSpec(conda=CondaSpec(packages=packages, pip=pip), **python))


@pytest.fixture
def lock_of(uv: str, cache_folder: str, wheels: Path, log: Any) -> Any:
    def make(*pip: str, packages: tuple[str, ...] = (), **python: Any) -> Lock:
        spec = spec_of(*source_of(wheels), *pip, packages=packages, **python)
        return resolve(spec, uv=uv, cache_folder=cache_folder, log=log)

    return make


def test_a_lock_pins_everything_for_the_hosts_python(lock_of: Any) -> None:
    lock = lock_of("above", "tiny==1.0")
    assert lock.requirements == ("above==1.0", "below==2.0", "tiny==1.0")
    assert (lock.builder, lock.python, lock.interpreter_path) == (Builder.UV, running_minor(), None)
    assert lock.digest == lock_digest(lock)


def test_the_same_spec_gives_the_same_lock(lock_of: Any) -> None:
    assert lock_of("above", "tiny") == lock_of("above", "tiny")
    assert lock_of("tiny", "above").digest == lock_of("above", "tiny").digest
    assert lock_of("tiny").digest != lock_of("tiny<1.1").digest


def test_azureml_lines_are_dropped_and_noted_in_lock_and_log(lock_of: Any, log: Any) -> None:
    lock = lock_of("azureml-defaults", "tiny")
    assert lock.requirements == ("tiny==1.1",)
    assert [(note.subject, note.got) for note in lock.notes] == [("azureml-defaults", "")]
    assert "azureml-defaults" in log.text


def test_notes_do_not_change_the_digest(lock_of: Any) -> None:
    assert lock_of("azureml-defaults", "tiny").digest == lock_of("tiny").digest


@pytest.mark.parametrize(
    "day", ["yesterday", "2021-3-1", "2021-02-30", "20210301", "2021-03-01T00:00:00Z", "", "3 days"]
)
def test_a_day_that_is_none_is_refused(lock_of: Any, day: str) -> None:
    with pytest.raises(UserErrorException) as caught:
        lock_of("tiny", as_of=day)
    assert caught.value.message == f"python.as_of is a day, written YYYY-MM-DD, not {day!r}."


def test_a_missing_version_names_the_package_and_the_newest(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError) as caught:
        lock_of("tiny==99.0")
    assert caught.value.message == f"tiny==99.0 does not exist in the package index for Python {running_minor()}."
    assert "tiny==1.1" in str(caught.value.hint)
    assert "last lines of uv" in str(caught.value.hint)


def test_a_wheel_for_other_pythons_names_them(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError) as caught:
        lock_of("oldonly==1.0")
    assert (
        f"oldonly==1.0 has no wheel for Python {running_minor()}; it has wheels for Python 3.7" in caught.value.message
    )
    assert "python=3.7" in str(caught.value.hint)


def test_a_contradiction_names_both_sides(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match="contradict") as caught:
        lock_of("above", "below<1")
    assert "above" in caught.value.message
    assert "below" in caught.value.message


def test_an_unknown_package_is_named(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match="no-such-package-here"):
        lock_of("no-such-package-here")


def test_an_unknown_conda_package_is_named_as_conda_has_it(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match="conda package no_such_here"):
        lock_of(packages=("no_such_here=1.0",))


def test_a_local_wheel_is_locked_by_its_content(lock_of: Any, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "local", "1.0")
    first = lock_of(str(wheel))
    assert first == lock_of(f"local @ {wheel.as_uri()}")
    assert first.requirements[0].startswith(f"local @ {wheel.as_uri()}#sha256=")
    make_wheel(tmp_path, "local", "1.0", body="CHANGED = True\n")
    assert lock_of(str(wheel)).digest != first.digest


@pytest.mark.parametrize("line", ["./x.whl", "/no/such.whl", "file:///no/such.whl"])
def test_a_local_file_that_is_not_there_is_refused(lock_of: Any, line: str) -> None:
    with pytest.raises(EnvironmentBuildError, match="names no file"):
        lock_of(line)


def test_python_that_no_run_can_use_becomes_the_oldest_that_it_can(
    uv: str, cache_folder: str, wheels: Path, log: Any
) -> None:
    here = [Interpreter(sys.executable, sys.version_info[:3])]
    spec = spec_of(*source_of(wheels), "tiny", packages=("python=3.6.2",))
    lock = resolve(spec, uv=uv, cache_folder=cache_folder, log=log, interpreters=here)
    assert lock.python == running_minor()
    (note,) = (note for note in lock.notes if note.subject == "python")
    assert (note.asked, note.got) == ("3.6.2", running_minor())
    assert "3.7 is the oldest" in note.why


def test_exact_only_refuses_another_python(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"asks for Python 3\.6\.2 exactly, and there would be 3"):
        lock_of("tiny", packages=("python=3.6.2",), exact_only=True)


@pytest.mark.parametrize(
    ("docker", "subjects"),
    [
        (DockerSpec(base_image="mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04"), []),
        (DockerSpec(base_image="ubuntu:20.04"), ["docker.base_image"]),
        (DockerSpec(base_dockerfile="FROM ubuntu:20.04"), ["docker.base_dockerfile"]),
    ],
)
def test_image_of_one_s_own_is_told_to_be_left_out(
    uv: str, cache_folder: str, wheels: Path, log: Any, docker: DockerSpec, subjects: list[str]
) -> None:
    spec = replace(spec_of(*source_of(wheels), "tiny"), docker=docker)
    lock = resolve(spec, uv=uv, cache_folder=cache_folder, log=log)
    assert [note.subject for note in lock.notes] == subjects
    assert all(subject in log.text for subject in subjects)


def test_another_patch_release_is_a_note(uv: str, cache_folder: str, log: Any) -> None:
    here = find_interpreters()[0]
    major, minor, patch = here.version
    spec = spec_of(packages=(f"python={major}.{minor}.{patch + 1}",))
    lock = resolve(spec, uv=uv, cache_folder=cache_folder, log=log, interpreters=[here])
    assert [(note.subject, note.got) for note in lock.notes] == [("python", f"{major}.{minor}.{patch}")]


def test_an_empty_environment_needs_no_index(uv: str, cache_folder: str, log: Any) -> None:
    lock = resolve(EnvironmentSpec(), uv=uv, cache_folder=cache_folder, log=log)
    assert (lock.requirements, lock.python) == ((), running_minor())


def test_user_managed_only_names_the_interpreter(lock_of: Any) -> None:
    lock = lock_of("tiny", user_managed=True)
    assert (lock.builder, lock.interpreter_path, lock.requirements) == (Builder.USER_MANAGED, "python", ())
    assert user_interpreter("python") == sys.executable
    assert user_interpreter(sys.executable) == sys.executable


def test_user_managed_without_an_interpreter_is_refused(lock_of: Any) -> None:
    with pytest.raises(EnvironmentBuildError, match="'/no/python' does not exist"):
        lock_of(user_managed=True, interpreter_path="/no/python")


def test_a_golden_lock() -> None:
    lock = Lock("", python="3.11", requirements=("numpy==1.26.4", "six==1.17.0"), options=("--pre",))
    assert lock_digest(lock) == "70aedc4a87086339fbfb14602a3409401e7689edbc5f5268718e6116108f9cea"


def test_a_golden_spec() -> None:
    spec = spec_of("azureml-defaults", "tensorflow-gpu==2.2.0", packages=("python=3.6.2",))
    assert spec_digest(spec) == "24b95383a715d6fdee021c87206547cc15b253822691ebf3262dfa89a65588ee"


def test_credentials_are_in_no_log_and_no_error(uv: str, cache_folder: str, wheels: Path, log: Any) -> None:
    secret = "--extra-index-url http://user:canary@127.0.0.1:9/simple"
    spec = spec_of(*source_of(wheels), secret, "tiny==99", "azureml-x @ https://user:canary@h/x.whl")
    with pytest.raises(EnvironmentBuildError) as caught:
        resolve(spec, uv=uv, cache_folder=cache_folder, log=log)
    assert "canary" not in str(caught.value) + log.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://u:p@h/x", "https://***@h/x"),
        ("https://token@h:80/x", "https://***@h:80/x"),
        ("a @ git+https://u:p@ss@h/x@v1", "a @ git+https://***@h/x@v1"),
        ("https://u:p/q@h/x", "https://***@h/x"),
        ("https://h/a@v1 https://h:80/a@b", "https://h/a@v1 https://h:80/a@b"),
        ("six==1.0", "six==1.0"),
        (
            "https://a.blob.core.windows.net/w/x.whl?sv=1&sig=a%2Fb%3D&se=2",
            "https://a.blob.core.windows.net/w/x.whl?sv=1&sig=***&se=2",
        ),
        ("https://h/x.whl?token=secret#sha256=0", "https://h/x.whl?token=***#sha256=0"),
        ("https://b.s3/x?X-Amz-Signature=0f&X-Amz-Date=1", "https://b.s3/x?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://conda.example/t/ab-123/channel/noarch", "https://conda.example/t/***/channel/noarch"),
        ("https://h/simple/t/ https://h/t/x.whl", "https://h/simple/t/ https://h/t/x.whl"),
    ],
)
def test_credentials_of_urls_are_hidden(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_names_and_versions_are_no_part_of_a_specs_key() -> None:
    conda = PythonSpec(conda=CondaSpec(pip=("six",)))
    assert spec_digest(EnvironmentSpec("a", "1", conda)) == spec_digest(EnvironmentSpec("b", "2", conda))
    assert spec_digest(EnvironmentSpec("a", "1", conda)) != spec_digest(EnvironmentSpec("a", "1"))


def test_tools_get_index_settings_and_no_setting_of_python() -> None:
    given = {
        "PATH": "/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "/x",
        "RUNYARD_TOKEN": "canary",
        "UV_INDEX_ACME_PASSWORD": "p",
        "UV_SYSTEM_PYTHON": "1",
        "PIP_INDEX_URL": "https://mirror/simple",
        "https_proxy": "http://proxy",
    }
    kept = tool_environment(given)
    assert set(kept) == {"PATH", "UV_INDEX_ACME_PASSWORD", "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "https_proxy"}
    assert kept["UV_DEFAULT_INDEX"] == "https://mirror/simple"


def test_the_hosts_pythons_are_found_once_each() -> None:
    found = find_interpreters()
    assert found[0].version[:2] == sys.version_info[:2]
    assert len({one.path for one in found}) == len(found)
    assert all(isinstance(one, Interpreter) for one in found)

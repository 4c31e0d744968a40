"""Conda's lines in pip's terms, and the choice of an interpreter."""

import pytest

from runyard.environments.pins import choose_interpreter, requirement_name, split_conda, to_pep440, translate
from runyard.environments.pythons import Interpreter
from runyard.environments.uv import dated
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import CondaSpec

HOST = tuple(Interpreter(f"/p{minor}", (3, minor, 5)) for minor in (6, 8, 9, 11))


@pytest.mark.parametrize(
    ("conda", "pip"),
    [
        ("=1.2", "==1.2.*"),
        ("=1.2.3=py36_0", "==1.2.3"),
        ("==1.2.3=h1", "==1.2.3"),
        ("=1.2=*", "==1.2.*"),
        ("=*=mkl", ""),
        (">=1,<2", ">=1,<2"),
        (">=1.5.*", ">=1.5"),
        ("1.19.2", "==1.19.2"),
        ("1.8*", "==1.8.*"),
        ("=1.19.*", "==1.19.*"),
        ("~=1.4", "~=1.4"),
        ("!=2", "!=2"),
        ("*", ""),
        ("=*", ""),
        ("==*", ""),
        (">=*", ""),
        ("=*,<2", "<2"),
        ("", ""),
    ],
)
def test_condas_constraints_become_pips(conda: str, pip: str) -> None:
    assert to_pep440(conda) == pip


def test_names_are_translated_and_what_is_no_python_package_is_left_out_with_a_note() -> None:
    conda = CondaSpec(packages=("python=3.8", "pip", "pytorch::pytorch=1.4", "cudatoolkit=10.1", "scikit-learn", "gcc"))
    wish = translate(conda)
    assert wish.python == "=3.8"
    assert wish.requirements == ("torch==1.4.*", "scikit-learn")
    assert {note.subject: note.got for note in wish.notes} == {"pytorch": "torch==1.4.*", "cudatoolkit": "", "gcc": ""}


@pytest.mark.parametrize("line", ["python=*", "python *", "python==*", "python"])
def test_star_leaves_python_and_packages_open(line: str) -> None:
    wish = translate(CondaSpec(packages=(line, "numpy=*", "scipy *")))
    assert (wish.python, wish.requirements) == ("", ("numpy", "scipy"))


def test_azureml_lines_are_dropped_with_a_note() -> None:
    wish = translate(CondaSpec(pip=("azureml-defaults==1.20", "AzureML_core[x]", "six"), packages=("azureml-sdk",)))
    assert wish.requirements == ("six",)
    assert [note.subject for note in wish.notes] == ["azureml-defaults", "azureml-core", "azureml-sdk"]
    assert all("kit" in note.why for note in wish.notes)


def test_the_pip_section_wins_over_condas_list() -> None:
    assert translate(CondaSpec(packages=("numpy=1.19",), pip=("NumPy>=1.20",))).requirements == ("NumPy>=1.20",)


def test_index_options_are_kept_apart() -> None:
    wish = translate(CondaSpec(pip=("--extra-index-url https://h/simple", "-f /wheels", "--pre", "six")))
    assert wish.options == ("--extra-index-url https://h/simple", "-f /wheels", "--pre")


@pytest.mark.parametrize("line", ["numpy=1|2", "numpy[version='>=1']", "=1.2", "numpy==not/a/version"])
def test_a_conda_line_without_counterpart_is_refused_by_name(line: str) -> None:
    with pytest.raises(EnvironmentBuildError) as caught:
        translate(CondaSpec(packages=(line,)))
    assert line in str(caught.value)


def test_other_options_of_pip_are_refused() -> None:
    with pytest.raises(EnvironmentBuildError, match="--config-settings"):
        translate(CondaSpec(pip=("--config-settings x=y",)))


def test_requirement_names_are_normalised() -> None:
    assert [requirement_name(x) for x in ("A_b.C[x]>=1", "a @ https://h", "./x.whl", "https://h/x")] == [
        "a-b-c",
        "a",
        "",
        "",
    ]


def test_conda_lines_are_split() -> None:
    assert split_conda("conda-forge::NumPy >=1.2") == ("numpy", ">=1.2")
    assert split_conda("numpy 1.19") == ("numpy", "1.19")


@pytest.mark.parametrize(
    ("wanted", "minor"),
    [
        ("=3.8", 8),
        ("=3.8.1", 8),
        ("", 11),
        (">=3.7", 11),
        (">=3.7,<3.10", 9),
        ("<=3.9", 9),
        ("==3.9.5", 9),
        ("=3.8.*", 8),
    ],
)
def test_the_interpreter_has_the_minor_version_that_was_asked_for(wanted: str, minor: int) -> None:
    assert choose_interpreter(wanted, HOST, "3.11").version[1] == minor


@pytest.mark.parametrize("wanted", ["=3.6.2", "=3.10", "=2.7", ">=3.12"])
def test_without_that_minor_version_the_error_lists_the_hosts_pythons(wanted: str) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"this host has 3\.8, 3\.9, 3\.11") as caught:
        choose_interpreter(wanted, HOST, "3.11")
    assert wanted.lstrip("=") in str(caught.value)


def test_what_v1_read_tables_with_becomes_what_reads_them_here() -> None:
    wish = translate(CondaSpec(pip=("azureml-dataprep[pandas,fuse]>=1.1", "azureml-defaults", "scikit-learn==0.20.3")))
    assert wish.requirements == ("pyarrow>=6", "pandas", "scikit-learn==0.20.3")
    assert next((note.subject, note.got) for note in wish.notes) == ("azureml-dataprep", "pyarrow>=6 pandas")


def test_engine_that_reads_tables_is_exempt_from_the_day() -> None:
    assert dated(None, ["pyarrow>=6"]) == []
    assert dated("2020-09-01", ["numpy"]) == ["--exclude-newer", "2020-09-01"]
    exempt = dated("2020-09-01", ["numpy", "pyarrow>=6"])
    assert exempt[:3] == ["--exclude-newer", "2020-09-01", "--exclude-newer-package"]
    assert exempt[3].startswith("pyarrow=")


@pytest.mark.parametrize(
    "line", ["--extra-index-url https://elsewhere.example/${UV_INDEX_URL}", "a @ https://b/${HOME}"]
)
def test_line_that_would_take_a_variable_of_the_server_is_refused(line: str) -> None:
    with pytest.raises(EnvironmentBuildError, match="holds a variable"):
        translate(CondaSpec(pip=(line,)))

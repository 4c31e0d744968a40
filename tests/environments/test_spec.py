"""Conda YAML and requirement files, to specs and back."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runyard.environments.spec import read_conda_yaml, read_pip_requirements, write_conda_yaml
from runyard.errors import UserErrorException
from runyard.protocol.environments import CondaSpec

V1_FILE = """\
channels:
- conda-forge
dependencies:
- python=3.6.2
- pip:
  - azureml-defaults
  - tensorflow-gpu==2.2.0
"""


def test_v1s_file_is_read_line_by_line() -> None:
    conda = read_conda_yaml(V1_FILE)
    assert conda == CondaSpec(
        channels=("conda-forge",), packages=("python=3.6.2",), pip=("azureml-defaults", "tensorflow-gpu==2.2.0")
    )


def test_all_of_v1s_shapes_are_accepted() -> None:
    conda = read_conda_yaml(
        "name: mine\ndependencies:\n- python=3.8\n- pip\n- numpy=1.19\n- pytorch::pytorch\n- pip: [six, 'a[b]>=1']\n"
    )
    assert conda.name == "mine"
    assert conda.packages == ("python=3.8", "pip", "numpy=1.19", "pytorch::pytorch")
    assert conda.pip == ("six", "a[b]>=1")


def test_numbers_stay_as_they_were_written() -> None:
    assert read_conda_yaml("name: 1.10\ndependencies: [python=3.10]").name == "1.10"


def test_empty_files_and_sections_are_empty_specs() -> None:
    assert read_conda_yaml("") == read_conda_yaml("dependencies:\nchannels: []\n") == CondaSpec()


def test_pip_lines_keep_markers_extras_and_options() -> None:
    lines = ("--extra-index-url https://u:p@h/simple", "a[b]==1 ; python_version < '3.9'", "c @ https://h/c.whl")
    text = write_conda_yaml(CondaSpec(pip=lines))
    assert read_conda_yaml(text).pip == lines


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dependencies: x", "line 1: 'dependencies' must be a list"),
        ("name: a\ndependencies:\n- conda: [x]", "line 3: 'dependencies' may hold package names and one 'pip' list"),
        ("dependencies:\n- pip:\n  - -r more.txt", "line 3: '-r more.txt' points to another file"),
        ("dependencies:\n- pip:\n  - -e .", "points to another file"),
        ("dependencies:\n- [a]", "line 2: 'dependencies' must hold plain text"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "not valid YAML at line 1"),
        ('name: "a\\0b"', "control characters"),
        ("name: !!python/object/apply:os.system [echo]", "must hold plain text"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_key(text: str, says: str) -> None:
    with pytest.raises(UserErrorException, match=r"conda_dependencies\.yml") as caught:
        read_conda_yaml(text, "conda_dependencies.yml")
    assert says in str(caught.value)


def test_a_file_of_two_megabytes_is_refused() -> None:
    with pytest.raises(UserErrorException, match="larger than"):
        read_conda_yaml("#" * (2 * 1024 * 1024))


def test_credentials_do_not_appear_in_errors() -> None:
    with pytest.raises(UserErrorException) as caught:
        read_pip_requirements("-r https://user:canary@host/more.txt")
    assert "canary" not in str(caught.value)


def test_requirement_files_lose_comments_and_join_lines() -> None:
    text = "# head\nsix \\\n  >=1  # why\n\n-f https://host/x#fragment\nb @ https://host/b.zip#egg=b\n"
    assert read_pip_requirements(text).pip == (
        "six   >=1",
        "-f https://host/x#fragment",
        "b @ https://host/b.zip#egg=b",
    )


_text = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1).map(str.strip).filter(bool)
_line = _text.filter(lambda line: not line.startswith("-"))


@given(st.builds(CondaSpec, _text, st.lists(_text).map(tuple), st.lists(_text).map(tuple), st.lists(_line).map(tuple)))
def test_what_is_written_is_read_back_by_us_and_by_any_yaml_reader(conda: CondaSpec) -> None:
    text = write_conda_yaml(conda)
    assert read_conda_yaml(text) == conda
    other = yaml.safe_load(text)
    assert other["name"] == conda.name
    assert [one for one in other["dependencies"] if isinstance(one, str)] == list(conda.packages)

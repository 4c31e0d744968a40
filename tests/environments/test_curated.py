"""Curated environments as data, and v1's two files."""

import json
from pathlib import Path

import pytest
import yaml

from runyard.environments.curated import find_curated, get_curated, is_reserved, list_curated
from runyard.environments.folder import load_from_directory, save_to_directory
from runyard.environments.pins import translate
from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol import wire
from runyard.protocol.environments import EnvironmentSpec

ARTICLE = "AzureML-TensorFlow-2.2-GPU"


def test_the_articles_environment_has_its_pins() -> None:
    spec = get_curated(ARTICLE)
    assert spec.name == ARTICLE
    assert "python=3.6.2" in spec.python.conda.packages
    assert "tensorflow-gpu==2.2.0" in spec.python.conda.pip
    assert spec.docker.gpu_support
    assert find_curated(ARTICLE.lower()) == spec


@pytest.mark.parametrize(
    "name",
    ["AzureML-Minimal", "AzureML-Tutorial", "AzureML-Scikit-learn-0.20.3", "azureml-tensorflow-2.11-cuda11"]
    + ["AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu", "AzureML-sklearn-0.24-ubuntu18.04-py37-cpu", "azureml-sklearn-1.5"]
    + ["AzureML-ACPT-pytorch-1.13-py38-cuda11.7-gpu", "azureml-tensorflow-2.16-cuda12"]
    + [f"AzureML-TensorFlow-1.{minor}-{kind}" for minor in (10, 12, 13) for kind in ("CPU", "GPU")]
    + [f"AzureML-TensorFlow-2.{minor}-{kind}" for minor in range(4) for kind in ("CPU", "GPU")]
    + [f"AzureML-PyTorch-1.{minor}-{kind}" for minor in range(7) for kind in ("CPU", "GPU")],
)
def test_v1s_names_are_there(name: str) -> None:
    assert find_curated(name) is not None


@pytest.mark.parametrize("spec", list_curated(), ids=lambda spec: spec.name)
def test_every_curated_environment_is_readable_and_reserved(spec: EnvironmentSpec, tmp_path: Path) -> None:
    wish = translate(spec.python.conda)
    assert wish.python
    assert not [line for line in wish.requirements if line.startswith("azureml")]
    assert is_reserved(spec.name)
    assert wire.loads(EnvironmentSpec, wire.dumps(spec)) == spec
    save_to_directory(spec, str(tmp_path / "out"))
    assert load_from_directory(str(tmp_path / "out")) == spec


def test_an_unknown_name_is_answered_with_those_alike() -> None:
    with pytest.raises(NotFoundError, match=r"AzureML-TensorFlow-2\.2-GPU"):
        get_curated("AzureML-TensorFlow-9.9-GPU")


@pytest.mark.parametrize(
    ("name", "reserved"),
    [
        ("AzureML-x", True),
        ("azureml", True),
        ("Microsoft-x", True),
        ("my-AzureML", False),
        ("tensorflow-2.2-gpu", False),
    ],
)
def test_reserved_names_begin_with_azureml_or_microsoft(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved


def test_the_two_files_are_v1s(tmp_path: Path) -> None:
    save_to_directory(get_curated(ARTICLE), str(tmp_path / "out"))
    conda = yaml.safe_load((tmp_path / "out" / "conda_dependencies.yml").read_text())
    assert conda["dependencies"][0] == "python=3.6.2"
    assert "tensorflow-gpu==2.2.0" in conda["dependencies"][1]["pip"]
    data = json.loads((tmp_path / "out" / "azureml_environment.json").read_text())
    assert data["python"]["condaDependencies"]["dependencies"] == conda["dependencies"]
    assert data["docker"]["baseImage"].startswith("mcr.microsoft.com/azureml/")


def test_saving_over_a_folder_needs_overwrite(tmp_path: Path) -> None:
    spec = get_curated(ARTICLE)
    with pytest.raises(UserErrorException, match="overwrite=True"):
        save_to_directory(spec, str(tmp_path))
    save_to_directory(spec, str(tmp_path), overwrite=True)
    assert load_from_directory(str(tmp_path)) == spec


def test_an_edited_conda_file_wins(tmp_path: Path) -> None:
    save_to_directory(get_curated(ARTICLE), str(tmp_path), overwrite=True)
    (tmp_path / "conda_dependencies.yml").write_text("dependencies: [python=3.8]\n")
    assert load_from_directory(str(tmp_path)).python.conda.packages == ("python=3.8",)


@pytest.mark.parametrize("text", ["[]", "{", '{"python": 3}', '{"python": {"condaDependencies": {"dependencies": 3}}}'])
def test_a_wrong_definition_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "azureml_environment.json").write_text(text)
    with pytest.raises(UserErrorException):
        load_from_directory(str(tmp_path))


def test_a_folder_without_a_definition_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"azureml_environment\.json"):
        load_from_directory(str(tmp_path))

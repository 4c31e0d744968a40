"""A list of packages as v1's scripts write and change it, and files of it from whatever system."""

from pathlib import Path

import pytest

from runyard.azureml.core import Environment
from runyard.azureml.core.conda_dependencies import CondaDependencies
from runyard.errors import UserErrorException

CONDA = "name: mine\r\ndependencies:\r\n- python=3.8\r\n- pip:\r\n  - nümpy==1\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_are_read_by_their_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "conda.yml").write_bytes(CONDA.encode(encoding))
    (tmp_path / "pip.txt").write_bytes("numpy==1\r\n".encode(encoding))
    (tmp_path / "Dockerfile").write_bytes("FROM debian\r\n".encode(encoding))
    assert CondaDependencies(str(tmp_path / "conda.yml")).pip_packages == ["nümpy==1"]
    found = Environment.from_pip_requirements("mine", str(tmp_path / "pip.txt"))
    assert found.python.conda_dependencies.pip_packages == ["numpy==1"]
    assert Environment.from_dockerfile("mine", str(tmp_path / "Dockerfile")).docker.base_dockerfile == "FROM debian\n"


def test_file_that_is_no_text_is_said_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "odd.yml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserErrorException, match=r"The conda file '.*odd.yml' is no UTF-8 text; save it as UTF-8"):
        CondaDependencies(str(path))
    path.write_bytes(b"\xff\xfea")
    with pytest.raises(UserErrorException, match=r"The file '.*odd.yml' is no UTF-16 text; save it as UTF-8"):
        Environment.from_pip_requirements("mine", str(path))
    with pytest.raises(UserErrorException, match=r"The file '.*gone' cannot be read: No such file"):
        Environment.from_pip_requirements("mine", str(tmp_path / "gone"))


def test_options_of_pip_are_set_replaced_and_removed() -> None:
    found = CondaDependencies.create(pip_indexurl="https://one", pip_packages=["numpy"])
    found.set_pip_index_url("https://two")
    found.set_pip_option("--extra-index-url https://three")
    found.set_pip_option("--extra-index-url https://four")
    found.set_pip_option("--pre")
    assert found.pip_packages == ["numpy"]
    options = ["--index-url https://two", "--extra-index-url https://three", "--extra-index-url https://four", "--pre"]
    assert found.pip_options == options
    found.remove_pip_option("--extra-index-url https://four")
    assert found.pip_options == [*options[:2], "--pre"]
    found.remove_pip_option("--extra-index-url")
    assert found.pip_options == ["--index-url https://two", "--pre"]
    with pytest.raises(UserErrorException, match="begins with '-', not as 'numpy' does"):
        found.set_pip_option("numpy")


def test_python_channels_and_tensorflow() -> None:
    found = CondaDependencies.create(python_version="3.8")
    assert found.get_python_version() == "3.8"
    found.add_channel("conda-forge")
    found.add_channel("pytorch")
    found.remove_channel("conda-forge")
    assert found.conda_channels == ["pytorch"]
    found.add_tensorflow_pip_package()
    found.add_tensorflow_pip_package("gpu", "1.13.1")
    assert found.pip_packages == ["tensorflow", "tensorflow-gpu==1.13.1"]
    with pytest.raises(UserErrorException, match="'cpu' or 'gpu', not 'tpu'"):
        found.add_tensorflow_pip_package("tpu")


def test_requirements_of_one_package_become_one() -> None:
    asked = ["numpy", "numpy >= 1", "numpy<2,>= 1", "a[x]==1", "a==1", "b; python_version < '3'", "c @ https://host/c"]
    merged = ["numpy>= 1,<2", "a[x]==1", "a==1", "b; python_version < '3'", "c @ https://host/c"]
    assert CondaDependencies().merge_requirements(asked) == merged

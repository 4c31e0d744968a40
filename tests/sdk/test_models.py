"""Registered models, by v1's own calls, on a real server."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard.azureml.core import Dataset, Environment, Model, Workspace
from runyard.azureml.core.model import InferenceConfig
from runyard.azureml.core.resource_configuration import ResourceConfiguration
from runyard.azureml.core.webservice import AciWebservice
from runyard.errors import UserErrorException, WebserviceException
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("models")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("models-home")):
        yield Workspace.create("models", exist_ok=True)


def test_model_is_updated_as_v1_does_and_a_keyword_that_is_misspelt_is_told(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.bin").write_bytes(b"weights")
    made = Model.register(workspace, str(tmp_path / "w.bin"), "updated", tags={"a": "1"}, description="before")
    assert made.resource_configuration is None
    made.update(resource_configuration=ResourceConfiguration(cpu=2, memory_in_gb=1.5, gpu=0))
    found = Model(workspace, "updated")
    needs = found.resource_configuration
    assert needs is not None
    assert needs.serialize() == {"cpu": 2, "memoryInGB": 1.5, "gpu": 0}
    found.update(tags={"b": "2"}, sample_input_dataset="some")
    assert "'sample_input_dataset' changes nothing here" in capsys.readouterr().err
    again = Model(workspace, "updated")
    assert (again.tags, again.description) == ({"b": "2"}, "before")
    assert again.resource_configuration is not None, "what is not spoken of stays"
    misspelt: Any = {"resource_config": ResourceConfiguration(cpu=1)}
    with pytest.raises(TypeError, match="resource_config"):
        made.update(**misspelt)
    with pytest.raises(TypeError, match="resource_config"):
        Model.register(workspace, str(tmp_path / "w.bin"), "updated", **misspelt)
    assert Model(workspace, "updated").version == 1
    wrong: Any = {"cpu": 1}
    with pytest.raises(UserErrorException, match=r"is a ResourceConfiguration\(cpu, memory_in_gb, gpu\), not"):
        made.update(resource_configuration=wrong)
    for asked, said in (
        (ResourceConfiguration(cpu=math.nan), "cpu is a number above 0, not nan"),
        (ResourceConfiguration(memory_in_gb=-1), "memory_in_gb is a number above 0, not -1"),
        (ResourceConfiguration(gpu=-1), "gpu is a whole number of at least 0, not -1"),
    ):
        with pytest.raises(UserErrorException, match=said):
            made.update(resource_configuration=asked)
        with pytest.raises(UserErrorException, match=said):
            Model.register(workspace, str(tmp_path / "w.bin"), "updated", resource_configuration=asked)
    with pytest.raises(UserErrorException, match="A filter by labels is a list of names"):
        Model.list(workspace, tags=5)


def test_parts_of_a_folder_are_registered_alone(workspace: Workspace, tmp_path: Path) -> None:
    for name in (
        "model/weights/a.bin",
        "model/weights/b.bin",
        "model/notes.txt",
        "model/scratch/big.bin",
        "beside.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    parts = ["weights", "notes.txt", "weights/a.bin"]
    made = Model.register(workspace, str(tmp_path / "model"), "parts", child_paths=parts)
    folder = Path(made.download(str(tmp_path / "back")))
    found = sorted(one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file())
    assert found == ["notes.txt", "weights/a.bin", "weights/b.bin"]
    Model.register(workspace, str(tmp_path / "model") + "/", "parts", child_paths="notes.txt")
    for wrong in ("../beside.txt", "absent", str(tmp_path / "beside.txt"), 3):
        named: Any = [wrong]
        with pytest.raises(UserErrorException, match=r"child_paths names .* which is no file or folder below"):
            Model.register(workspace, str(tmp_path / "model"), "parts", child_paths=named)
    odd: Any
    for odd, said in (
        ({"model_path": 5}, "model path 5 does not exist"),
        ({"model_path": str(tmp_path / "model"), "child_paths": 3}, "child_paths is a list of"),
    ):
        with pytest.raises(UserErrorException, match=said):
            Model.register(workspace, model_name="parts", **odd)
    with pytest.raises(UserErrorException, match="is a file"):
        Model.register(workspace, str(tmp_path / "beside.txt"), "parts", child_paths=["beside.txt"])
    assert Model(workspace, "parts").version == 2


def test_tags_of_a_model_are_taken_away_and_datasets_are_added(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"weights")
    made = Model.register(workspace, str(tmp_path / "w.bin"), "labelled", tags={"a": "1", "b": "2", "c": "3"})
    made.remove_tags(["a", "b", "absent"])
    assert Model(workspace, "labelled").tags == {"c": "3"}
    made.remove_tags("c")
    assert Model(workspace, "labelled").tags == {}
    assert made.unpack is False
    files = Dataset.File.upload_directory(str(tmp_path), (workspace.get_default_datastore(), "of-the-model"))
    made.add_dataset_references([("training", files)])
    assert files.id is not None
    assert [one.name for one in Model.list(workspace, dataset_id=files.id)] == ["labelled"]
    wrong: Any
    for wrong in (files, [files], [("training", "name")], None):
        with pytest.raises(WebserviceException, match="a list of pairs of a purpose and a Dataset, not"):
            made.add_dataset_references(wrong)
    with pytest.raises(WebserviceException, match=r"labelled:1 have no signed addresses: download\(\) fetches"):
        made.get_sas_urls()


def test_what_would_be_deployed_is_printed(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "score.py").write_text("def run(data):\n    return 1\n")
    made = Model.register(workspace, str(tmp_path / "score.py"), "printed")
    config = InferenceConfig("score.py", source_directory=str(tmp_path), environment=Environment("mine"))
    settings = AciWebservice.deploy_configuration(cpu_cores=2)
    Model.print_configuration([made], config, settings, None)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["Models: ['printed:1']", "Entry script: score.py", "Environment: mine"]
    assert "cpu=2" in said[3]
    Model.print_configuration([], None, None, None)
    assert capsys.readouterr().out == ""

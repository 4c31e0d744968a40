"""What a submission makes of a configuration's arguments."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runyard.azureml.core import ScriptRunConfig
from runyard.protocol.runs import InputMode
from runyard.sdk.data_reference import DataReference
from runyard.sdk.dataset_consumption import DatasetConsumptionConfig
from runyard.sdk.submission import _arguments

STORE: Any = SimpleNamespace(name="store")


def _dataset(number: int) -> Any:
    return SimpleNamespace(_ensure_saved=lambda _workspace: f"id-{number}")


def _inputs(folder: Path, *arguments: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    words, inputs = _arguments(ScriptRunConfig(str(folder), "train.py", list(arguments)), None)
    return words, {one.name: one for one in inputs}


def test_mount_and_download_of_one_path_are_two_inputs(tmp_path: Path) -> None:
    reference = DataReference(STORE, path_on_datastore="data")
    words, inputs = _inputs(tmp_path, reference.as_mount(), reference.as_download(overwrite=True), reference.as_mount())
    mount, download = "store_data", "store_data_2"
    assert words == tuple(f"$AZUREML_DATAREFERENCE_{name}" for name in (mount, download, mount))
    assert {name: one.mode for name, one in inputs.items()} == {mount: InputMode.MOUNT, download: InputMode.DOWNLOAD}
    assert (inputs[download].path, inputs[download].overwrite) == ("data", True)


def test_data_of_one_name_are_numbered_from_that_name(tmp_path: Path) -> None:
    asked = [DatasetConsumptionConfig("x", _dataset(number), InputMode.MOUNT) for number in (1, 2, 3, 2)]
    words, inputs = _inputs(tmp_path, *asked, DataReference(STORE, "x"))
    assert {name: one.dataset_id or one.datastore for name, one in inputs.items()} == {
        "x": "id-1",
        "x_2": "id-2",
        "x_3": "id-3",
        "x_4": "store",
    }
    assert [word.rpartition("_x")[2] for word in words] == ["", "_2", "_3", "_2", "_4"]

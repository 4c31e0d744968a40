"""take, skip, take_sample, random_split: the same files in the client and in a run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.azureml.core import Dataset, Workspace
from runyard.errors import UserErrorException
from tests.own_server import own_server, run_here

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

SCRIPT = """
import os, sys
from azureml.core import Run
found = sorted(os.path.relpath(os.path.join(p, n), sys.argv[1]) for p, _, ns in os.walk(sys.argv[1]) for n in ns)
print("\\n".join(found))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with own_server(tmp_path_factory.mktemp("selections-home")):
        yield Workspace.create("sdk", exist_ok=True)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    for number in range(20):
        path = tmp_path / "digits" / str(number % 2) / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    return tmp_path / "digits"


def test_parts_of_a_dataset_are_registered_and_bound_to_runs(
    workspace: Workspace, digits: Path, tmp_path: Path
) -> None:
    train, test = Dataset.File.from_files(str(digits)).random_split(0.7, seed=3)
    assert sorted(train.to_path() + test.to_path()) == sorted(Dataset.File.from_files(str(digits)).to_path())
    train = train.skip(1).register(workspace, "digits-train")
    again = Dataset.get_by_name(workspace, "digits-train")
    assert again.to_path() == train.to_path()
    assert train.register(workspace, "digits-train").version == 1, "the same definition is the same version"
    with pytest.raises(UserErrorException, match="another definition"):
        test.register(workspace, "digits-train")
    assert len(again.download(str(tmp_path / "copies"))) == len(train.to_path())
    first, *lines = run_here(workspace, tmp_path, SCRIPT, again.as_mount()).splitlines()
    assert first.startswith(f"Runyard: Input 'digits_train': {len(lines)} files, linked")
    assert ["/" + line for line in lines] == sorted(again.to_path())


def test_order_and_number_are_those_of_the_listing(digits: Path) -> None:
    whole = Dataset.File.from_files(str(digits))
    assert whole.take(3).to_path() == whole.to_path()[:3]
    assert whole.skip(18).to_path() == whole.to_path()[18:]
    assert whole.skip(5).take(2).to_path() == whole.to_path()[5:7]
    assert whole.take_sample(0.5, seed=1).to_path() == whole.take_sample(0.5, seed=1).to_path()
    drawn = whole.take_sample(0.5)
    assert drawn.to_path() == drawn.to_path(), "a draw without a seed is made once"


def test_wrong_numbers_are_refused(digits: Path) -> None:
    whole = Dataset.File.from_files(str(digits))
    for count in (-1, 1.5, "3", True):
        with pytest.raises(UserErrorException, match="whole number"):
            whole.take(count)  # type: ignore[arg-type]
    for share in (-0.1, 70, "half"):
        with pytest.raises(UserErrorException, match="between 0 and 1"):
            whole.random_split(share)  # type: ignore[arg-type]

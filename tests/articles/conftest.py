"""A stage for the articles: digits on a web server of this machine, the scripts, the config file, the conda file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples.digits import write_digits

from tests.emulators.site import serving_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four idx files, as the quickstart makes them; a folder of data beside the project may have those of MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    beside = ROOT.parent / "shared" / "data" / "mnist"
    with pytest.MonkeyPatch.context() as patch:
        if "QUICKSTART_MNIST" not in os.environ and beside.is_dir():
            patch.setenv("QUICKSTART_MNIST", str(beside))
        write_digits(folder)
    return folder


@pytest.fixture(scope="session")
def mnist_url(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An address below which the four files lie, as they lay at the article's."""
    root = tmp_path_factory.mktemp("web")
    (root / "exdb").mkdir()
    os.symlink(digits, root / "exdb" / "mnist")
    # On every address: the nodes of a cluster ask for them too.
    with serving_folder(root, "0.0.0.0") as address:
        yield address + "/exdb/mnist"

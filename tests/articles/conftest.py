"""A stage for the articles: digits on a web server of this machine, the scripts, the config file, the conda file."""

import gzip
import http.server
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four idx files: real MNIST where a folder beside the project has it, else scikit-learn's own digits."""
    folder = tmp_path_factory.mktemp("digits")
    shared = ROOT.parent / "shared" / "data" / "mnist"
    if (shared / MNIST_FILES[0]).exists():
        for name in MNIST_FILES:
            shutil.copy(shared / name, folder / name)
    else:
        _write_digits(folder)
    return folder


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / 16)).astype("uint8")
    for prefix, chosen in (("train", slice(0, 1440)), ("t10k", slice(1440, None))):
        some, names = pixels[chosen], labels[chosen].astype("uint8")
        with gzip.open(folder / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 0x803, len(some), 8, 8) + some.tobytes())
        with gzip.open(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 0x801, len(names)) + names.tobytes())


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the test's own output matters."""


@pytest.fixture(scope="session")
def mnist_url(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An address below which the four files lie, as they lay at the article's."""
    root = tmp_path_factory.mktemp("web")
    (root / "exdb").mkdir()
    os.symlink(digits, root / "exdb" / "mnist")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/exdb/mnist"
        server.shutdown()

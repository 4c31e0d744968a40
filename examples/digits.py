"""Real handwritten digits as the four idx files of MNIST: fetched from an address, else scikit-learn's own."""

import gzip
import os
import shutil
import struct
import urllib.request
from pathlib import Path

from sklearn.datasets import load_digits

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
#: Of scikit-learn's 1,797 digits, so many are learnt from.
TRAINING = 1_440


def write_digits(folder: Path) -> str:
    """Put the four files into ``folder``; returns what they are.

    QUICKSTART_MNIST may name a folder or an address below which MNIST's files lie.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = os.environ.get("QUICKSTART_MNIST")
    if source and os.path.isdir(source):
        for name in FILES:
            shutil.copy(os.path.join(source, name), folder / name)
        return f"MNIST from {source}"
    if source:
        for name in FILES:
            with urllib.request.urlopen(f"{source.rstrip('/')}/{name}", timeout=20) as reply:
                (folder / name).write_bytes(reply.read())
        return f"MNIST from {source}"
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * (255 / 16)).astype("uint8")
    names = labels.astype("uint8")
    _write(folder, "train", pixels[:TRAINING], names[:TRAINING])
    _write(folder, "t10k", pixels[TRAINING:], names[TRAINING:])
    return f"scikit-learn's {len(pixels):,} handwritten digits"


def _write(folder, prefix, pixels, names):
    # A fixed time in the archives: the same digits are the same files, so nothing is uploaded twice.
    with gzip.GzipFile(folder / f"{prefix}-images-idx3-ubyte.gz", "wb", mtime=0) as file:
        file.write(struct.pack(">IIII", 0x803, len(pixels), 8, 8) + pixels.tobytes())
    with gzip.GzipFile(folder / f"{prefix}-labels-idx1-ubyte.gz", "wb", mtime=0) as file:
        file.write(struct.pack(">II", 0x801, len(names)) + names.tobytes())

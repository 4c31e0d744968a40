"""Reads images and labels in the idx format of MNIST."""

import glob
import gzip
import os
import struct

import numpy as np


def find_file(folder, name):
    """The file of that name anywhere below the folder: a mounted dataset keeps its source's own folders."""
    found = sorted(glob.glob(os.path.join(folder, "**", name), recursive=True))
    if not found:
        raise FileNotFoundError(f"{name} is not below {folder}")
    return found[0]


def load_images(folder, name):
    """Images as float32 rows of pixels from 0 to 1, and their height and width."""
    with gzip.open(find_file(folder, name), "rb") as file:
        _, count, height, width = struct.unpack(">IIII", file.read(16))
        pixels = np.frombuffer(file.read(count * height * width), dtype=np.uint8)
    return pixels.reshape(count, height * width).astype("float32") / 255, (height, width)


def load_labels(folder, name):
    """Labels as integers from 0 to 9."""
    with gzip.open(find_file(folder, name), "rb") as file:
        _, count = struct.unpack(">II", file.read(8))
        return np.frombuffer(file.read(count), dtype=np.uint8).astype("int64")


def load_digits(folder):
    """(training images, training labels, test images, test labels)."""
    train, _ = load_images(folder, "train-images-idx3-ubyte.gz")
    test, _ = load_images(folder, "t10k-images-idx3-ubyte.gz")
    return (
        train,
        load_labels(folder, "train-labels-idx1-ubyte.gz"),
        test,
        load_labels(folder, "t10k-labels-idx1-ubyte.gz"),
    )

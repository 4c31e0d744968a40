"""Where in a model's files the part is that its framework loads."""

import os
from typing import Iterator, Sequence


def find_file(path: str, endings: Sequence[str], what: str) -> str:
    """The one file with such an ending at or below ``path``; ValueError says what was there instead."""
    if os.path.isfile(path):
        return path
    found = sorted(_files(path))
    matching = [one for one in found if one.lower().endswith(tuple(endings))]
    if len(matching) == 1:
        return os.path.join(path, matching[0])
    if len(found) == 1:
        return os.path.join(path, found[0])
    shown = ", ".join(matching or found[:10]) or "nothing"
    raise ValueError(f"{what} is one file that ends in {' or '.join(endings)}; the model's folder has: {shown}.")


def find_folder(path: str, name: str) -> str:
    """The folder at or below ``path`` that holds a file of that name, the highest of several; '' where none does."""
    levels = [(folder.count(os.sep), folder) for folder, _, names in os.walk(path) if name in names]
    return min(levels)[1] if levels else ""


def _files(path: str) -> Iterator[str]:
    for folder, _, names in os.walk(path):
        for name in names:
            yield os.path.relpath(os.path.join(folder, name), path)

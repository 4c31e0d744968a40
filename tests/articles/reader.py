"""Pastes an article's code blocks one after the other, in one namespace, as a reader does."""

import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

BLOCKS = Path(__file__).parent / "blocks"
#: Where scripts lie that the articles name and do not show.
SCRIPTS = Path(__file__).parent / "scripts"
#: The articles' old address of the digits.
OLD_ADDRESS = "http://yann.lecun.com/exdb/mnist"


def run_blocks(
    article: str, numbers: Iterable[int], folder: Path, names: dict[str, Any], instead: Mapping[str, str]
) -> dict[str, Any]:
    """The names that are left after those blocks; ``instead``: what takes the place of some of their words."""
    for number in numbers:
        block = f"{article}_{number:02}.py"
        text = (BLOCKS / f"{block}.txt").read_text()
        for word, other in instead.items():
            text = text.replace(word, other)
        (folder / block).write_text(text)
        names = runpy.run_path(str(folder / block), init_globals=names)
    return names

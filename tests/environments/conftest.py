"""A folder of small wheels, a cache for uv, and a log that can be read."""

from pathlib import Path

import pytest

from runyard.environments.uv import find_uv
from tests.environments.packages import make_wheel


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "tiny", "1.0")
    make_wheel(folder, "tiny", "1.1")
    make_wheel(folder, "below", "2.0")
    make_wheel(folder, "above", "1.0", needs=["below>=1"])
    make_wheel(folder, "oldonly", "1.0", tag="cp37-cp37m-manylinux1_x86_64")
    return folder


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("uv-cache"))


@pytest.fixture(scope="session")
def uv() -> str:
    return find_uv()


class Lines(list[str]):
    """A log: what was said, in order."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


@pytest.fixture
def log() -> Lines:
    return Lines()

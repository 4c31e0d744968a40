"""A mounted file that is larger than the cache, by a real server."""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runyard.azureml.core import Workspace
from runyard.client.downloads import Wanted
from runyard.client.local_server import connect
from runyard.runner.mounted import BLOCK_BYTES, BLOCKS_MAX, Through
from tests.own_server import own_server

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("sdk")]

DATA = os.urandom((BLOCKS_MAX // 4) * BLOCK_BYTES + 12_345)


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    with own_server(tmp_path_factory.mktemp("mounted-home")):
        workspace = Workspace.create("mounted", exist_ok=True)
        folder: Path = tmp_path_factory.mktemp("files")
        (folder / "big").write_bytes(DATA)
        store = workspace.get_default_datastore()
        store.upload(str(folder), "in", show_progress=False)
        (listed,) = store._list("in/big")
        found = connect()
        mount: Any = SimpleNamespace(server=found, workspace="mounted", note=print)
        yield Through(mount, Wanted("", None, store.name, listed.path, listed.size_bytes, listed.tag))
        found.close()


def test_many_readers_get_what_is_there_across_the_borders_of_blocks(through: Through) -> None:
    wrong = []
    chosen = random.Random(7)
    places = [(chosen.randrange(len(DATA) + 99), chosen.randrange(1 << 20)) for _ in range(200)]
    places += [(BLOCK_BYTES * number - 1, 2) for number in range(1, 4)] + [(len(DATA) - 1, 9), (len(DATA), 9)]

    def read(part: list[tuple[int, int]]) -> None:
        wrong.extend(one for one in part if through.read(one[1], one[0]) != DATA[one[0] : sum(one)])

    threads = [threading.Thread(target=read, args=(places[start::8],)) for start in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []


def test_memory_is_given_back_when_the_last_reader_is_done(through: Through) -> None:
    through.open()
    through.open()
    assert through.read(9, 0) == DATA[:9]
    through.close()
    assert through._blocks
    through.close()
    assert not through._blocks

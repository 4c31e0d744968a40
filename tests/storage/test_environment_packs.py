"""Packs of environments lie in any artifact store, in parts where it takes parts."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from runyard.control.environment_packs import Packs
from runyard.environments.pack import platform_here, unpack
from runyard.environments.pythons import running_minor
from runyard.environments.realise import realise
from runyard.environments.uv import find_uv
from runyard.errors import NotFoundError
from runyard.protocol.digests import CHUNK_BYTES
from runyard.protocol.environments import EnvironmentPack, Lock, lock_digest
from runyard.storage.base import ArtifactStore
from tests.emulators.servers import STORAGE
from tests.environments.packages import source_of
from tests.environments.test_layers import whole_wheel
from tests.server.application import Application

pytestmark = STORAGE


@pytest.mark.parametrize("size_bytes", [10, 2 * CHUNK_BYTES])
def test_pack_is_kept_and_read_back(store: ArtifactStore, tmp_path: Path, size_bytes: int) -> None:
    whole_wheel(tmp_path, "tiny", {"tiny.py": "VERSION = '1.0'\n", "tiny.txt": "x" * size_bytes})
    lock = Lock("", python=running_minor(), requirements=("tiny==1.0",), options=source_of(tmp_path))
    lock = replace(lock, digest=lock_digest(lock))
    app = Application(tmp_path / "home")
    cache = app.home / "cache"
    realise(lock, str(cache), uv=find_uv(), log=lambda _line: None)
    packs = Packs(app.home / "packs", cache, store, app.parts.builds, is_on=True)
    found = find(packs, lock)
    packs.close()
    app.close()
    (tmp_path / "node").mkdir()
    with store.open(found.digest) as file:
        assert unpack(iter(lambda: file.read(1 << 20), b""), str(tmp_path / "node")) == found.digest
    assert next((tmp_path / "node").rglob("tiny.txt")).stat().st_size == size_bytes


def find(packs: Packs, lock: Lock) -> EnvironmentPack:
    """The pack, once it is made."""
    ends_at = time.monotonic() + 60
    while True:
        try:
            return packs.find("ws", lock, platform_here())
        except NotFoundError:
            assert time.monotonic() < ends_at, "the pack is made"
            time.sleep(0.05)

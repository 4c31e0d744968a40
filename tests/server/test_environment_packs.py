"""Packs of environments: made by the server, for nodes of its kind, and given to the runs that use that environment."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.control.environment_packs import Packs
from runyard.db import fleet
from runyard.environments.pack import platform_here, unpack
from runyard.environments.pythons import running_minor
from runyard.environments.realise import realise
from runyard.environments.uv import find_uv
from runyard.errors import NotFoundError
from runyard.protocol.digests import CHUNK_BYTES, digest_bytes
from runyard.protocol.environments import Builder, Lock, lock_digest
from runyard.protocol.identity import Principal, PrincipalKind
from tests.control.decided import queue
from tests.environments.packages import source_of
from tests.environments.test_layers import whole_wheel
from tests.server.application import Application, Reply

HERE = "platform=" + platform_here().replace(" ", "+")


class Stage:
    """A server with two workspaces, and an environment whose lock it knows."""

    def __init__(self, folder: Path) -> None:
        whole_wheel(folder, "tiny", {"tiny.py": "VERSION = '1.0'\n", "tiny_data.txt": "x" * CHUNK_BYTES})
        whole_wheel(folder, "other", {"other.py": ""})
        self.app = Application(folder / "home")
        self.cache = folder / "home" / "cache"
        self.locks = [self.add_lock(name, folder) for name in ("tiny", "other")]
        for workspace in ("ws", "elsewhere"):
            self.app.add_workspace(workspace)

    def add_lock(self, name: str, folder: Path) -> Lock:
        lock = Lock("", python=running_minor(), requirements=(f"{name}==1.0",), options=source_of(folder))
        lock = replace(lock, digest=lock_digest(lock))
        self.app.parts.database.write(lambda c: fleet.save_lock(c, "spec-" + name, lock, "control", 1))
        return lock

    def add_run(self, run_id: str, lock: Lock, workspace: str = "ws") -> str:
        """A run with that environment; the token that its runner has."""
        self.app.add_run(workspace, run_id)
        self.app.parts.database.write(lambda c: queue(c, run_id, lock.digest, "waits", 1))
        return self.app.add_token(Principal(PrincipalKind.RUN, run_id, "run", workspace, run_id))

    def find(self, run_id: str, token: str, workspace: str = "ws", query: str = HERE) -> Reply:
        return self.app.ask("find_environment_pack", token=token, query=query, workspace=workspace, run_id=run_id)

    def build(self, lock: Lock) -> None:
        realise(lock, str(self.cache), uv=find_uv(), log=lambda _line: None)

    def await_pack(self, lock: Lock, workspace: str = "ws") -> None:
        path = self.app.home / "packs" / workspace / f"{lock.digest}.json"
        ends_at = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < ends_at, "the pack is made"
            time.sleep(0.01)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(tmp_path)
    yield found
    found.app.parts.packs.close()
    found.app.close()


def test_first_node_asks_in_vain_and_the_next_gets_the_pack(stage: Stage, tmp_path: Path) -> None:
    lock = stage.locks[0]
    stage.build(lock)
    token = stage.add_run("one", lock)
    assert "has no pack of this environment yet" in stage.find("one", token).error["message"]
    stage.await_pack(lock)
    found = stage.find("one", token).json
    reply = stage.app.ask("read_environment_pack", token=token, query=HERE, workspace="ws", run_id="one")
    assert (digest_bytes(reply.body), len(reply.body)) == (found["digest"], found["size_bytes"])
    assert int(reply.headers["content-length"]) == found["size_bytes"] > CHUNK_BYTES
    (tmp_path / "node").mkdir()
    unpack([reply.body], str(tmp_path / "node"))
    assert list((tmp_path / "node").rglob("tiny.py"))
    assert not list((stage.app.home / "tmp").iterdir())


def test_server_builds_for_a_pack_once_a_second_node_has_asked(stage: Stage) -> None:
    lock = stage.locks[1]
    token = stage.add_run("one", lock)
    assert stage.find("one", token).status == 404
    assert not (stage.cache / "envs").exists(), "one node alone is no reason"
    assert stage.find("one", token).status == 404
    stage.await_pack(lock)
    assert stage.find("one", token).status == 200


def test_pack_is_given_to_runs_of_its_workspace_that_use_its_lock(stage: Stage) -> None:
    tiny, other = stage.locks
    stage.build(tiny)
    token = stage.add_run("one", tiny)
    stage.find("one", token)
    stage.await_pack(tiny)
    assert stage.find("one", stage.add_run("two", other)).status in (403, 404), "another run's"
    assert stage.find("two", stage.add_run("three", tiny)).status in (403, 404)
    assert stage.find("two", stage.app.add_token(Principal(PrincipalKind.RUN, "two", "run", "ws", "two"))).status == 404
    away = stage.add_run("four", tiny, "elsewhere")
    assert stage.find("four", away, "elsewhere").status == 404, "the workspace has none of its own"
    assert stage.app.ask("find_environment_pack", query=HERE, workspace="ws", run_id="one").status == 403, "an owner"


def test_why_there_is_no_pack_is_said(stage: Stage) -> None:
    lock = stage.locks[0]
    token = stage.add_run("one", lock)
    why = stage.find("one", token, query="platform=riscv64+glibc+2.36").error["message"]
    assert why == f"The server's packs are for {platform_here()} and newer, and this node is riscv64 glibc 2.36."
    packs: Any = stage.app.parts.packs
    with pytest.raises(NotFoundError, match="what conda or an image holds"):
        packs.find("ws", replace(lock, builder=Builder.CONDA), platform_here())
    parts = stage.app.parts
    off = Packs(stage.app.home / "packs", stage.cache, parts.store, parts.builds, is_on=False)
    with pytest.raises(NotFoundError, match="RUNYARD_ENVIRONMENT_PACKS=0"):
        off.find("ws", lock, platform_here())


def test_pack_whose_content_is_lost_is_made_again(stage: Stage) -> None:
    lock = stage.locks[0]
    stage.build(lock)
    token = stage.add_run("one", lock)
    stage.find("one", token)
    stage.await_pack(lock)
    digest = stage.find("one", token).json["digest"]
    (blob,) = (stage.app.home / "store").rglob(digest.partition(":")[2])
    os.unlink(blob)
    (stage.app.home / "packs" / "ws" / f"{lock.digest}.json").unlink()
    assert stage.find("one", token).status == 404
    stage.await_pack(lock)
    assert stage.find("one", token).json["digest"] == digest


def test_environment_that_cannot_be_built_here_is_left_to_the_nodes(stage: Stage, tmp_path: Path) -> None:
    lock = Lock("", python=running_minor(), requirements=("absent==1.0",), options=source_of(tmp_path))
    lock = replace(lock, digest=lock_digest(lock))
    stage.app.parts.database.write(lambda c: fleet.save_lock(c, "spec", lock, "control", 1))
    token = stage.add_run("one", lock)
    for _ in range(2):
        stage.find("one", token)
    # One thread makes them in turn: once another is there, the first try is over.
    stage.build(stage.locks[0])
    stage.find("two", stage.add_run("two", stage.locks[0]))
    stage.await_pack(stage.locks[0])
    assert "has no pack of this environment yet" in stage.find("one", token).error["message"]

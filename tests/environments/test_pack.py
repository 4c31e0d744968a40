"""Environments that travel built: laid out elsewhere they work, and one that does not arrive whole is built instead."""

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runyard.environments.pack import Pulled, can_be_packed, can_serve, platform_here, unpack, write_pack
from runyard.environments.pythons import running_minor
from runyard.environments.realise import environment_folder, realise
from runyard.protocol.digests import CHUNK_BYTES, digest_bytes
from runyard.protocol.environments import Builder, Lock, SourceBuild, lock_digest
from tests.environments.packages import source_of
from tests.environments.test_layers import whole_wheel

#: More than a chunk, so that the pack's digest is one of several.
BIG = "DATA = '" + "x" * (CHUNK_BYTES + 100) + "'\n"


def lock_of(folder: Path, *requirements: str) -> Lock:
    lock = Lock("", python=running_minor(), requirements=requirements, options=source_of(folder))
    return replace(lock, digest=lock_digest(lock))


class Made:
    """An environment that was built in one folder, and its pack."""

    def __init__(self, lock: Lock, root: Path, uv: str, cache_folder: str) -> None:
        realise(lock, str(root), uv=uv, log=lambda _line: None, cache_folder=cache_folder)
        self.lock, self.file = lock, root / "pack"
        with open(self.file, "wb") as out:
            write_pack(environment_folder(lock, str(root)), out)
        self.data = self.file.read_bytes()

    def pull(self, data: bytes = b"", step: int = 1 << 20) -> Pulled:
        sent = data or self.data
        pieces = (sent[start : start + step] for start in range(0, len(sent), step))
        return Pulled(digest_bytes(self.data), len(self.data), pieces)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, uv: str, cache_folder: str) -> Made:
    folder = tmp_path_factory.mktemp("packed")
    whole_wheel(folder, "tiny", {"tiny.py": "VERSION = '1.0'\n"})
    whole_wheel(folder, "big", {"big.py": BIG})
    return Made(lock_of(folder, "tiny==1.0", "big==1.0"), folder / "server", uv, cache_folder)


def index_of(pack: bytes) -> dict[str, Any]:
    """What stands in it of each file but the one that names the interpreter."""
    length = int.from_bytes(pack[7:15], "little")
    return {path: facts for path, *facts in json.loads(pack[15 : 15 + length]) if path != "pyvenv.cfg"}


def no_uv() -> str:
    raise AssertionError("nothing is to be built")


def test_packed_environment_works_elsewhere_without_a_build(made: Made, tmp_path: Path, log: Any) -> None:
    done = realise(made.lock, str(tmp_path), uv=no_uv, log=log, pull=made.pull)
    folder = environment_folder(made.lock, str(tmp_path))
    code = "import big, sys, tiny; print(tiny.VERSION, sys.prefix, len(big.DATA), tiny.__cached__)"
    answer = subprocess.run([done.interpreter, "-I", "-c", code], capture_output=True, check=True, text=True)
    version, prefix, size, compiled = answer.stdout.split()
    assert (version, prefix, int(size)) == ("1.0", folder, CHUNK_BYTES + 100)
    first = environment_folder(made.lock, str(made.file.parent))
    assert Path(compiled).read_bytes() == Path(compiled.replace(folder, first)).read_bytes()
    assert {*os.listdir(folder), ".lock"} == {*os.listdir(first), ".lock"}
    assert "comes as the server's pack of" in log.text
    with open(tmp_path / "again", "wb") as out:
        write_pack(folder, out)
    assert index_of((tmp_path / "again").read_bytes()) == index_of(made.data)


def test_what_is_here_already_is_not_fetched(made: Made, tmp_path: Path, log: Any, uv: str) -> None:
    realise(made.lock, str(tmp_path), uv=no_uv, log=log, pull=made.pull)
    smaller = replace(made.lock, requirements=("tiny==1.0",))
    smaller = replace(smaller, digest=lock_digest(smaller))

    def pull() -> Pulled:
        raise AssertionError("its packages are here")

    done = realise(smaller, str(tmp_path), uv=uv, log=log, pull=pull)
    subprocess.run([done.interpreter, "-I", "-c", "import tiny"], check=True)


def hostile(entry: list[Any], data: bytes = b"") -> bytes:
    index = json.dumps([entry]).encode()
    return b"RYENV1\n" + len(index).to_bytes(8, "little") + index + data


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data[:-1], "it ends early"),
        (lambda data: data + b"x", "it goes on after its last file"),
        (lambda data: data[:-2] + b"xx", "it arrived damaged"),
        (lambda data: b"PK" + data, "it does not begin as a pack does"),
        (lambda data: b"RYENV1\n" + b"\xff" * 8, "its index is too long"),
        (lambda data: hostile(["../out", 1, 0o644, 0], b"x"), "'../out' leads out of it"),
        (lambda data: hostile(["/out", 1, 0o644, 0], b"x"), "'/out' leads out of it"),
        (lambda data: hostile(["lib", "../.."]), "'../..' leads out of it"),
    ],
)
def test_pack_that_does_not_come_whole_is_told_and_the_environment_built(
    made: Made, tmp_path: Path, log: Any, uv: str, cache_folder: str, damage: Any, why: str
) -> None:
    done = realise(
        made.lock,
        str(tmp_path / "node"),
        uv=uv,
        log=log,
        cache_folder=cache_folder,
        pull=lambda: made.pull(damage(made.data)),
    )
    assert f"The pack cannot be used, so the environment is built: {why}" in log.text
    subprocess.run([done.interpreter, "-I", "-c", "import tiny, big"], check=True)
    assert not (tmp_path / "out").exists()


def test_server_that_has_no_pack_or_breaks_off_leaves_the_node_to_build(
    made: Made, tmp_path: Path, log: Any, uv: str, cache_folder: str
) -> None:
    def broken() -> Iterator[bytes]:
        yield made.data[:100]
        raise ConnectionResetError("the server went away")

    for number, pull in enumerate((lambda: None, lambda: replace(made.pull(), pieces=broken()))):
        root = str(tmp_path / str(number))
        realise(made.lock, root, uv=uv, log=log, cache_folder=cache_folder, pull=pull)
    assert "the server went away" in log.text


def test_pieces_of_any_size_are_one_pack(made: Made, tmp_path: Path) -> None:
    for number, step in enumerate((1_000_003, CHUNK_BYTES, 3 * CHUNK_BYTES)):
        (tmp_path / str(number)).mkdir()
        assert unpack(made.pull(step=step).pieces, str(tmp_path / str(number))) == digest_bytes(made.data)


def test_platforms_that_can_serve_each_other() -> None:
    here = platform_here()
    assert can_serve(here, here)
    assert can_serve("x86_64 glibc 2.31", "x86_64 glibc 2.36")
    for made, wanted in (
        ("x86_64 glibc 2.36", "x86_64 glibc 2.31"),
        ("x86_64 glibc 2.9", "x86_64 glibc 2.8"),
        ("x86_64 glibc 2.36", "aarch64 glibc 2.36"),
        ("x86_64 unknown", "x86_64 unknown"),
        ("x86_64 glibc 2.36", ""),
    ):
        assert not can_serve(made, wanted)


def test_only_what_uv_has_taken_from_wheels_is_packed() -> None:
    lock = Lock("0" * 64, requirements=("six==1.17.0",))
    assert can_be_packed(lock)
    assert not can_be_packed(replace(lock, sources=(SourceBuild("horovod==0.19.5"),)))
    for builder in (Builder.CONDA, Builder.DOCKER, Builder.USER_MANAGED):
        assert not can_be_packed(replace(lock, builder=builder))

"""The blob store: what it acknowledged is there, what is half-written is not, whoever dies when."""

import fcntl
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from runyard.errors import IntegrityError, NotFoundError, UserErrorException
from runyard.files.blobs import PACKED_BELOW, BlobStore
from runyard.protocol.digests import CHUNK_BYTES, digest_bytes

SIZES = (0, 1, PACKED_BELOW - 1, PACKED_BELOW, 300_000, CHUNK_BYTES + 1)


def _content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed * 1_000_003 + size).randbytes(size)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.mark.parametrize("move", [False, True])
def test_files_come_back_as_they_were(store: BlobStore, tmp_path: Path, move: bool) -> None:
    paths = []
    for size in SIZES:
        paths.append(tmp_path / f"file-{size}")
        paths[-1].write_bytes(_content(size))
    stored = store.put_files(paths, move=move)
    assert [one.digest for one in stored] == [digest_bytes(_content(size)) for size in SIZES]
    for size, one in zip(SIZES, stored, strict=True):
        assert one.size_bytes == store.size(one.digest) == size
        assert store.read(one.digest) == _content(size)
        target = tmp_path / f"copy-{size}"
        store.copy_to(one.digest, target, executable=True)
        assert target.read_bytes() == _content(size)
        assert target.stat().st_nlink == 1
        assert os.access(target, os.X_OK)
        if not move:
            assert paths[SIZES.index(size)].read_bytes() == _content(size)


def test_store_knows_what_it_has_after_it_is_opened_again(store: BlobStore, tmp_path: Path) -> None:
    digests = store.put_many([_content(size) for size in SIZES])
    again = BlobStore(tmp_path / "store")
    absent = digest_bytes(b"absent")
    assert again.has([*digests, absent]) == set(digests)
    with pytest.raises(NotFoundError):
        again.open(absent)


def test_lost_index_is_made_again_from_the_packs(store: BlobStore, tmp_path: Path) -> None:
    digests = store.put_many([b"one", b"two", b"three"])
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (tmp_path / "store" / name).unlink(missing_ok=True)
    (tmp_path / "store" / "index.db").write_bytes(b"this is no database" * 100)
    assert BlobStore(tmp_path / "store").read(digests[1]) == b"two"


@pytest.mark.parametrize("size", [100, 300_000])
def test_flipped_bit_is_found_and_never_served(store: BlobStore, tmp_path: Path, size: int) -> None:
    (digest,) = store.put_many([_content(size)])
    folder = tmp_path / "store" / ("packs" if size < PACKED_BELOW else "blobs")
    (path,) = [one for one in folder.rglob("*") if one.is_file()]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="damaged"):
        store.read(digest)


def test_stream_that_is_not_what_was_promised_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        store.put_stream([b"a" * 100_000], digest_bytes(b"other"))
    assert [one for one in (tmp_path / "store" / "blobs").rglob("*") if one.is_file()] == []
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_upload_is_resumed_and_a_replayed_part_counts_once(store: BlobStore) -> None:
    data = _content(CHUNK_BYTES + 5)
    upload = store.begin_upload()
    assert store.append_upload(upload, 0, data[:1000]) == 1000
    assert store.append_upload(upload, 0, data[:1000]) == 1000
    assert store.append_upload(upload, 5000, b"gap") == 1000
    assert store.append_upload(upload, 500, data[500:]) == len(data)
    assert store.finish_upload(upload, digest_bytes(data)) == digest_bytes(data)
    assert store.read(digest_bytes(data)) == data
    with pytest.raises(NotFoundError):
        store.append_upload(upload, 0, b"late")


@pytest.mark.parametrize("size", [10, 100_000])
def test_upload_that_is_finished_again_answers_the_same(store: BlobStore, size: int) -> None:
    upload, data = store.begin_upload(), _content(size)
    store.append_upload(upload, 0, data)
    assert [store.finish_upload(upload, digest_bytes(data)) for _ in range(2)] == [digest_bytes(data)] * 2
    with pytest.raises(NotFoundError, match="is over or was never begun"):
        store.finish_upload(upload, digest_bytes(b"other"))


@pytest.mark.parametrize("size", [10, 100_000])
def test_upload_may_be_finished_by_two_requests_at_once(store: BlobStore, size: int) -> None:
    for number in range(20):
        upload, data = store.begin_upload(), _content(size) + bytes([number])
        store.append_upload(upload, 0, data)
        both_are_here = threading.Barrier(2)

        def finish(upload: str = upload, data: bytes = data, here: threading.Barrier = both_are_here) -> str:
            here.wait()
            return store.finish_upload(upload, digest_bytes(data))

        with ThreadPoolExecutor(2) as pool:
            found = [one.result() for one in [pool.submit(finish) for _ in range(2)]]
        assert found == [digest_bytes(data)] * 2


def test_part_that_waited_for_the_end_of_its_upload_never_reaches_the_blob(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, data = store.begin_upload(), _content(100_000)
    store.append_upload(upload, 0, data)
    flock = fcntl.flock

    def finish_first(file: Any, operation: int) -> None:
        monkeypatch.setattr("runyard.files.blobs.fcntl.flock", flock)
        store.finish_upload(upload, digest_bytes(data))
        flock(file, operation)

    monkeypatch.setattr("runyard.files.blobs.fcntl.flock", finish_first)
    with pytest.raises(NotFoundError):
        store.append_upload(upload, len(data), b"more")
    assert store.read(digest_bytes(data)) == data


def test_upload_with_another_content_is_refused(store: BlobStore) -> None:
    upload = store.begin_upload()
    store.append_upload(upload, 0, b"x" * 100_000)
    with pytest.raises(IntegrityError):
        store.finish_upload(upload, digest_bytes(b"y"))
    for name in ("../../etc", "0" * 31, "Z" * 32):
        with pytest.raises(UserErrorException):
            store.append_upload(name, 0, b"x")


def _put_same(root: Path, out: "multiprocessing.Queue[list[str]]") -> None:
    out.put(BlobStore(root).put_many([_content(size) for size in SIZES]))


def test_processes_that_store_the_same_at_once_agree(tmp_path: Path) -> None:
    out: multiprocessing.Queue[list[str]] = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=_put_same, args=(tmp_path / "store", out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [out.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert all(one == found[0] for one in found)
    for digest in found[0]:
        BlobStore(tmp_path / "store").read(digest)


WRITER = textwrap.dedent(
    """
    import sys, random
    from pathlib import Path
    from runyard.files.blobs import BlobStore
    store, seed = BlobStore(Path(sys.argv[1])), int(sys.argv[2])
    for round in range(10_000):
        chance = random.Random(seed * 1000 + round)
        for digest in store.put_many([chance.randbytes(chance.choice((10, 5_000, 100_000))) for _ in range(5)]):
            print(digest, flush=True)
    """
)


def test_what_was_acknowledged_survives_kill_at_any_moment(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for seed in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "store"), str(seed)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        first = writer.stdout.readline()
        deadline = time.monotonic() + random.Random(seed).uniform(0.005, 0.15)
        lines = [first]
        while time.monotonic() < deadline:
            lines.append(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.stdout.close()
        writer.wait(timeout=30)
        acknowledged += [line.strip() for line in lines if line.endswith("\n")]
    store = BlobStore(tmp_path / "store")
    assert len(acknowledged) > 20
    assert store.has(acknowledged) == set(acknowledged)
    for digest in acknowledged:
        store.read(digest)
    for path in (tmp_path / "store" / "blobs").rglob("*"):
        if path.is_file():
            store.read(f"{path.parent.parent.name}:{path.name}")


FULL = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from runyard.errors import StorageFullError
    from runyard.files.blobs import BlobStore
    root = Path(sys.argv[1])
    store = BlobStore(root / "store")
    (kept,) = store.put_many([b"k" * 100_000])
    (root / "ballast").write_bytes(bytes(4_000_000))
    for size in (6_000_000, 60_000):
        try:
            while True:
                store.put_many([os.urandom(size)])
        except StorageFullError as error:
            assert "is full" in str(error), error
    assert not list((root / "store" / "tmp").iterdir())
    (root / "ballast").unlink()
    (again,) = store.put_many([b"again" * 20_000])
    assert store.read(again) == b"again" * 20_000
    assert store.read(kept) == b"k" * 100_000
    print("fine")
    """
)


def test_full_disk_is_said_and_everything_continues_when_space_returns(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=8m none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "Operation not permitted" in done.stderr or "No such file" in done.stderr:
        pytest.skip("this kernel gives no private mounts")
    assert done.stdout == "fine\n", done.stderr


def test_what_has_another_name_is_copied_and_not_moved(store: BlobStore, tmp_path: Path) -> None:
    """A script may have linked to it from elsewhere, and write there when its run has ended."""
    (tmp_path / "output").write_bytes(_content(300_000))
    (tmp_path / "kept").hardlink_to(tmp_path / "output")
    (stored,) = store.put_files([tmp_path / "output"], move=True)
    (tmp_path / "kept").write_bytes(b"another")
    assert store.read(stored.digest) == _content(300_000)

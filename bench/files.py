"""Bytes: a large file and many small ones into the store, a source folder again; beside cp and plain writing."""

import os
import subprocess
import tempfile
from pathlib import Path

from bench.measure import median_s, say, seconds

LARGE_BYTES = 1 << 30
SMALL_COUNT, SMALL_BYTES = 5_000, 4_096
TREE_COUNT, TREE_BYTES = 2_000, 50_000


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        _large(Path(folder))
        _small(Path(folder))
        _tree(Path(folder))


def _large(folder: Path) -> None:
    from runyard.files.blobs import BlobStore

    source, outputs = folder / "large", folder / "outputs"
    piece = os.urandom(1 << 20)
    with open(source, "wb") as file:
        for number in range(LARGE_BYTES >> 20):
            file.write(number.to_bytes(8, "little") + piece[8:])
    subprocess.run(["sync"], check=True)
    copy = seconds(
        lambda: subprocess.run(["sh", "-c", f"cp {source} {folder / 'copy'} && sync {folder / 'copy'}"], check=True)
    )
    (folder / "copy").unlink()
    source.rename(outputs)
    store = BlobStore(folder / "store")
    took = seconds(lambda: store.put_files([outputs], move=True))
    say("1 GiB from ./outputs, verified and durable", took, "{:.2f} s", copy * 1.3, f"cp + sync {copy:.2f} s")


def _small(folder: Path) -> None:
    from runyard.files.blobs import BlobStore

    (folder / "small").mkdir()
    contents = [os.urandom(SMALL_BYTES) for _ in range(SMALL_COUNT)]
    paths = [folder / "small" / str(number) for number in range(SMALL_COUNT)]

    def write() -> None:
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)

    wrote = seconds(write)
    took = seconds(lambda: BlobStore(folder / "store-small").put_files(paths, move=True))
    say("5,000 files of 4 KiB, durable", took, "{:.2f} s", wrote * 2, f"writing them {wrote:.2f} s")


def _tree(folder: Path) -> None:
    from runyard.files.snapshots import take_snapshot

    root = folder / "tree"
    for number in range(TREE_COUNT):
        path = root / f"folder-{number % 40}" / f"file-{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(TREE_BYTES))
        os.utime(path, (1e9, 1e9))

    def scan() -> None:
        take_snapshot(str(root), str(folder / "cache"))

    def walk() -> None:
        for parent, _, names in os.walk(root):
            for name in names:
                os.stat(os.path.join(parent, name))

    first = seconds(scan)
    subprocess.run(["sleep", "2.5"], check=True)
    scan()
    again, bare = median_s(scan, 9), median_s(walk, 9)
    say("2,000 files / 100 MB, first snapshot", first, "{:.2f} s")
    say("2,000 files / 100 MB, unchanged", again * 1e3, "{:.0f} ms", 50, f"os.walk + stat {bare * 1e3:.0f} ms")

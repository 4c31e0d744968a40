"""Data on their way to a run: mounted, downloaded and linked, beside a plain file and a plain download.

The bucket is moto's on this machine, whose own speed bounds what comes from it; both ways are measured against it.
"""

import os
import sys
import tempfile
from pathlib import Path

from bench.measure import say, seconds

BIG_BYTES, SMALL_COUNT, LINKED_COUNT = 128 << 20, 1_000, 20_000

READ = """
import os, sys, time
def read(path):
    begun = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    return time.perf_counter() - begun
def walk(root):
    begun = time.perf_counter()
    for parent, _, names in os.walk(root):
        for name in sorted(names):
            with open(os.path.join(parent, name), "rb") as file:
                file.read()
    return time.perf_counter() - begun
big = os.path.join(sys.argv[1], "big")
print("seconds", *([read(big) for _ in range(3)] if os.path.exists(big) else [walk(sys.argv[1]) for _ in range(2)]))
"""


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(prefix="runyard-bench-") as folder:
        os.environ["RUNYARD_HOME"] = str(Path(folder) / "home")
        os.environ["RUNYARD_ALLOW_PRIVATE_URLS"] = "1"
        from runyard.client.local_server import connect
        from runyard.sdk.workspace import Workspace
        from tests.emulators.servers import start_s3

        with start_s3() as s3:
            workspace = Workspace.create("bench", exist_ok=True)
            try:
                _measure(workspace, s3, Path(folder))
            finally:
                server = connect()
                server.call("stop_server")
                server.close()


def _measure(workspace, s3, folder: Path) -> None:
    from runyard.azureml.core import Dataset, Datastore

    s3.make_bucket("bench-data")
    store = Datastore.register(
        workspace, "bucket", "s3://bench-data", endpoint=s3.endpoint, key=s3.key, secret=s3.secret
    )
    _write(folder / "large" / "big", BIG_BYTES)
    for kind in ("mounted", "downloaded"):
        for number in range(SMALL_COUNT):
            _write(folder / kind / f"{number:05}", 4096)
    for kind in ("large", "mounted", "downloaded"):
        store.upload(str(folder / kind), kind, show_progress=False)
    large = Dataset.File.from_files((store, "large"))
    first, second, third = _run(workspace, folder, large.as_mount())
    plain = [*_run(workspace, folder, Dataset.File.from_files(str(folder / "large")).as_mount())]
    say(
        "a mounted file of 128 MiB, read again in the same run",
        BIG_BYTES / min(second, third) / 1e6,
        "{:.0f} MB/s",
        0.7 * BIG_BYTES / min(plain) / 1e6,
        f"plain {BIG_BYTES / min(plain) / 1e6:.0f} MB/s; first {BIG_BYTES / first / 1e6:.0f}",
        is_least=True,
    )
    again = min(_run(workspace, folder, large.as_mount()))
    say(
        "the same in the next run",
        BIG_BYTES / again / 1e6,
        "{:.0f} MB/s",
        0.7 * BIG_BYTES / min(plain) / 1e6,
        "links into the cache",
        is_least=True,
    )
    epoch, _ = _run(workspace, folder, Dataset.File.from_files((store, "mounted")).as_mount())
    target = folder / "target"
    took = seconds(lambda: Dataset.File.from_files((store, "downloaded")).download(str(target)))
    say(f"first epoch of {SMALL_COUNT} mounted small files", epoch, "{:.1f} s", took / 0.8, f"download {took:.1f} s")
    for number in range(LINKED_COUNT):
        _write(folder / "many" / f"{number // 1000:03}" / f"{number:06}", 10)
    linked = seconds(lambda: _run(workspace, folder, Dataset.File.from_files(str(folder / "many")).as_mount()))
    copied = seconds(lambda: _link_all(folder / "many", folder / "links"))
    say(
        f"{LINKED_COUNT} files of this disk in a run, whole",
        linked,
        "{:.1f} s",
        None,
        f"their links alone {copied:.1f} s",
    )


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def _link_all(source: Path, target: Path) -> None:
    for parent, _, names in os.walk(source):
        place = target / os.path.relpath(parent, source)
        place.mkdir(parents=True)
        for name in names:
            os.symlink(os.path.join(parent, name), place / name)


def _run(workspace, folder: Path, argument) -> list[float]:
    from runyard.azureml.core import Environment, Experiment, ScriptRunConfig

    source = folder / "source"
    _write(source / "read.py", 0)
    (source / "read.py").write_text(READ)
    environment = Environment("as-it-is")
    environment.python.user_managed_dependencies = True
    environment.python.interpreter_path = sys.executable
    run = Experiment(workspace, "bench").submit(
        ScriptRunConfig(str(source), "read.py", arguments=[argument], environment=environment)
    )
    run.wait_for_completion()
    run.download_file("user_logs/std_log.txt", str(folder / "log"))
    line = next(one for one in (folder / "log").read_text().splitlines() if one.startswith("seconds "))
    return [float(one) for one in line.split()[1:]]

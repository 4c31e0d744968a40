"""Podman as a test can have it on any Debian: its own store, and an image made of this host's own Python."""

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE = "localhost/small:1"

_SKIPPED = shutil.ignore_patterns(
    "test", "idlelib", "tkinter", "_tkinter*", "ensurepip", "lib2to3", "site-packages", "__pycache__", "turtledemo",
    "pydoc_data", "config-*", "__phello__",
)  # fmt: skip

#: Works without the rights and cgroups that a container of one's own would have.
_CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def podman_settings(folder: Path) -> dict[str, str]:
    """Variables by which podman keeps all that is large below ``folder``."""
    (folder / "containers.conf").write_text(_CONTAINERS)
    # With a folder of more than 50 characters podman starts containers, and then never learns that they have ended.
    run = tempfile.mkdtemp(prefix="runyard-podman-", dir="/tmp")
    atexit.register(shutil.rmtree, run, ignore_errors=True)
    places = f'graphroot = "{folder}/graph"\nrunroot = "{run}"\n'
    (folder / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\n{places}')
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }


def make_image(folder: Path, variables: dict[str, str]) -> None:
    """IMAGE, from nothing: this interpreter, its library, what both are linked with, and a shell."""
    root = folder / "root"
    minor = "python{}.{}".format(*sys.version_info[:2])
    library = Path(sys.base_prefix) / "lib" / minor
    programs = [Path(sys.base_prefix) / "bin" / minor, *map(Path, ("/bin/sh", "/bin/sleep", "/usr/bin/env"))]
    modules = [one for one in (library / "lib-dynload").glob("*.so") if "tkinter" not in one.name]
    # uv is linked with libgcc, as every distribution's base image has it.
    linked = {one for path in (*programs, *modules, _uv()) for one in libraries_of(path)}
    # What glibc's own package has beside: Open MPI's wheel is linked with it.
    found = Path(next(one for one in linked if "/libc.so" in one)).parent
    linked.update(str(found / f"lib{name}") for name in ("util.so.1", "rt.so.1", "dl.so.2", "pthread.so.0", "m.so.6"))
    for path in {*map(str, programs), *linked}:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(library, root / str(library).lstrip("/"), ignore=_SKIPPED)
    for name in ("tmp", "etc", "proc", "sys", "dev", "usr/local/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in (minor, "python3", "python"):
        (root / "usr/local/bin" / name).symlink_to(programs[0])
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\nENV PATH=/usr/local/bin:/usr/bin:/bin MADE_BY=test\n")
    podman(variables, "build", "--quiet", "--tag", IMAGE, "--file", str(folder / "Dockerfile"), str(root))


def podman(variables: dict[str, str], *words: str) -> str:
    """What podman prints."""
    done = subprocess.run(
        ["podman", *words], env={**os.environ, **variables}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def docker_socket(folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Docker's own API as podman speaks it: the address for Docker's client."""
    path = folder / "docker.sock"
    command = ["podman", "system", "service", "--time", "0", f"unix://{path}"]
    with subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.DEVNULL) as service:
        try:
            while not _listens(path):
                assert service.poll() is None
                time.sleep(0.05)
            yield f"unix://{path}"
        finally:
            service.terminate()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def libraries_of(path: Path) -> set[str]:
    """The shared libraries that a program or module is linked with, by their paths."""
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    return set(re.findall(r"(/\S+) \(0x", done.stdout))


def _uv() -> Path:
    from runyard.environments.uv import find_uv

    return Path(find_uv())

"""Small packages made on the spot, so that the tests of environments need no index: wheels, and a source that waits."""

import io
import os
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

_BACKEND = """
import os, time, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    here = os.environ["PIP_TEST_GATE"]
    open(os.path.join(here, "started"), "w").close()
    while not os.path.exists(os.path.join(here, "go")):
        time.sleep(0.02)
    name = "waits-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("waits.py", "")
        wheel.writestr("waits-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: waits\\nVersion: 1.0\\n")
        wheel.writestr("waits-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("waits-1.0.dist-info/RECORD", "")
    return name
"""


_COPYING_BACKEND = (
    _BACKEND.replace("waits", "copies")
    .replace(_BACKEND[_BACKEND.index("    here =") : _BACKEND.index("    name =")], "    import base\n")
    .replace('"copies.py", ""', '"copies.py", "BUILT_WITH = %r" % base.VERSION')
)


def make_wheel(
    folder: Path, name: str, version: str, *, needs: Sequence[str] = (), tag: str = "py3-none-any", body: str = ""
) -> Path:
    """A wheel with one module named as the package."""
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", body or f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_waiting_source(folder: Path) -> Path:
    """A source whose build writes 'started' and waits for 'go', two files in $PIP_TEST_GATE."""
    return _make_source(folder, "waits", _BACKEND)


def make_copying_source(folder: Path) -> Path:
    """A source whose build takes over the version of the package "base" that it finds installed."""
    return _make_source(folder, "copies", _COPYING_BACKEND)


def _make_source(folder: Path, name: str, backend: str) -> Path:
    files: tuple[tuple[str, str], ...] = (
        (f"{name}-1.0/PKG-INFO", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
        (f"{name}-1.0/backend.py", backend),
        (
            f"{name}-1.0/pyproject.toml",
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\n',
        ),
    )
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for place, text in files:
            facts = tarfile.TarInfo(place)
            facts.size = len(text.encode())
            archive.addfile(facts, io.BytesIO(text.encode()))
    return path


def source_of(folder: Path) -> tuple[str, ...]:
    """The options that make ``folder`` the only index."""
    return ("--no-index", "--find-links " + os.fspath(folder))

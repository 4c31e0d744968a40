"""The archive with which a node that has nothing of Runyard carries out attempts: the runner, and what it imports."""

import gzip
import hashlib
import io
import tarfile
from functools import lru_cache
from pathlib import Path
from typing import List, Tuple

from runyard.environments.kit import PARTS, package_files
from runyard.files.layout import write_atomically

#: What of the package the runner needs besides the kit's own parts.
RUNNER_PARTS = ("runner", "environments")


def make_archive(folder: Path) -> str:
    """The archive of the Runyard that runs this, in ``folder``; returns its name, which ends in its own SHA-256.

    The same files give the same bytes, whoever makes them and when.
    """
    name, data = _archive()
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    return name


@lru_cache(maxsize=1)
def _archive() -> Tuple[str, bytes]:
    """Name and bytes; packing takes a fifth of a second, which no attempt should wait for again."""
    data = _packed(package_files((*PARTS, *RUNNER_PARTS)))
    return f"runner-{hashlib.sha256(data).hexdigest()}.tar.gz", data


def _packed(files: List[Tuple[str, bytes]]) -> bytes:
    plain, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as stream:
        stream.write(plain.getvalue())
    return packed.getvalue()

"""Files that the workspace keeps for environments (private wheels, build contexts): their names, and copies on a host.

A name is a URL of a scheme of its own, runyard://WORKSPACE/files/SHA256/NAME: it says the content, and no address.
"""

import hashlib
import os
import re
import tempfile
from typing import Callable, Iterator, List, Optional, Sequence

from runyard.errors import EnvironmentBuildError, IntegrityError, UserErrorException
from runyard.protocol.environments import Lock, StoredFile

_STORED = re.compile(r"runyard://([A-Za-z0-9][A-Za-z0-9._\-]*)/files/([0-9a-f]{64})/([A-Za-z0-9][A-Za-z0-9._+!\-]*)")

#: Longest name of one, characters.
NAME_MAX = 200

#: A wheel's name: distribution, version, build, Python, ABI and platform (PEP 427).
_WHEEL = re.compile(
    r"^[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?-[0-9][A-Za-z0-9_.!+]*(?:-[0-9][A-Za-z0-9_.]*)?"
    r"-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+-[A-Za-z0-9_.]+\.whl$"
)

#: Gives a stored file's bytes, piece by piece.
Fetch = Callable[[StoredFile], Iterator[bytes]]


def check_wheel_name(name: str) -> str:
    """``name``, if a wheel may be called so; UserErrorException otherwise."""
    if not _WHEEL.match(name):
        raise UserErrorException(
            f"{name[:120]!r} is no name of a wheel; give the file the name that its build tool gave it."
        )
    return name


def check_stored(file: StoredFile) -> None:
    """Refuse a name or a digest that can be no stored file's."""
    if not _STORED.fullmatch(name_of(file)) or len(file.name) > NAME_MAX:
        raise UserErrorException(f"{name_of(file)[:200]!r} is no name of a stored file.")


def is_stored(text: str) -> bool:
    """Does a stored file's name stand in ``text``?"""
    return _STORED.search(text) is not None


def stored_in(text: str) -> List[StoredFile]:
    """The stored files that ``text`` names."""
    return [StoredFile(*found.groups()) for found in _STORED.finditer(text)]


def name_of(file: StoredFile) -> str:
    """How a script names it."""
    return f"runyard://{file.workspace}/files/{file.sha256}/{file.name}"


def stored_of(lock: Lock) -> List[StoredFile]:
    """The stored files that a lock needs."""
    lines: Sequence[str] = (*lock.requirements, lock.image.context if lock.image else "")
    return [one for line in lines for one in stored_in(line)]


def stored_path(name: str, root_folder: str) -> str:
    """Where this host has a copy of a stored file, or will have."""
    (found,) = stored_in(name)[:1] or (None,)
    if found is None:
        raise EnvironmentBuildError(f"{name!r} is no stored file's name.")
    return os.path.join(root_folder, "files", found.sha256, found.name)


def local_line(line: str, root_folder: str) -> str:
    """A requirement with the path of this host's copy in place of a stored file's name."""
    return _STORED.sub(lambda found: "file://" + stored_path(found.group(0), root_folder), line)


def stored_line(line: str, names: Sequence[str], root_folder: str) -> str:
    """``local_line`` backwards: what a resolver said of a copy of one of ``names``, as any host may read it."""
    for name in names:
        line = line.replace("file://" + stored_path(name, root_folder), name)
    return re.sub(r"(runyard://[^\s#]+)#sha256=[0-9a-f]{64}", r"\1", line)


def bring(files: Sequence[StoredFile], root_folder: str, fetch: Optional[Fetch]) -> None:
    """Have a copy of each on this host; IntegrityError where the bytes are not those of the name."""
    for one in missing_on_disk(files, root_folder):
        if fetch is None:
            raise EnvironmentBuildError(f"The stored file {one.name!r} of workspace {one.workspace!r} is not here.")
        path = stored_path(name_of(one), root_folder)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        digest = hashlib.sha256()
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".")
        try:
            with open(descriptor, "wb") as stream:
                for piece in fetch(one):
                    digest.update(piece)
                    stream.write(piece)
            if digest.hexdigest() != one.sha256:
                raise IntegrityError(f"The stored file {one.name!r} has other bytes than were sent; add it again.")
            os.chmod(temporary, 0o644)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def missing_on_disk(files: Sequence[StoredFile], root_folder: str) -> List[StoredFile]:
    """Those that this host has no copy of."""
    return [one for one in files if not os.path.exists(stored_path(name_of(one), root_folder))]

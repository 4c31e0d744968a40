"""What a snapshot of a folder would hold, and why the rest would not: nothing is hashed, nothing is sent."""

import fnmatch
import os
import re
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from runyard.errors import SnapshotException, UserErrorException
from runyard.files.ignore import read_rules
from runyard.files.walk import FoundFile, Problem, walk
from runyard.protocol.record import record
from runyard.protocol.trees import check_path, twins

#: Names that keys and passwords have.
SECRET_NAMES = (
    ".env", ".env.*", "*.pem", "*.pfx", "*.p12", "*.key", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", ".netrc",
    ".pypirc", ".npmrc", ".git-credentials", "credentials", "kubeconfig", "*service-account*.json", "*.kdbx",
)  # fmt: skip
#: What keys and tokens look like inside a file, with what they are.
SECRET_TEXTS = (
    (re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(rb"\bAKIA[0-9A-Z]{16}\b"), "an access key of AWS"),
    (re.compile(rb"AccountKey=[A-Za-z0-9+/]{40,}"), "an account key of Azure"),
    (re.compile(rb"[?&]sig=[A-Za-z0-9%]{40,}"), "a shared access signature"),
    (re.compile(rb"\bgh[pousr]_[A-Za-z0-9]{36,}\b"), "a token of GitHub"),
    (re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b"), "a token of Hugging Face"),
)
#: How much of a file is looked into, bytes.
LOOK_BYTES = 64 * 1024


@record
class SurveyedFile:
    """A file that would go."""

    path: str
    size_bytes: int


@record
class LeftOut:
    """A file or folder that would not."""

    path: str
    #: The line of the ignore file, or which rule of ours.
    rule: str


@record
class Suspicion:
    """A file that looks like a secret."""

    path: str
    why: str


@record
class Survey:
    """A folder as a snapshot would see it."""

    #: By path.
    files: Tuple[SurveyedFile, ...]
    left_out: Tuple[LeftOut, ...]
    suspicions: Tuple[Suspicion, ...]
    #: What a snapshot would refuse, one sentence each.
    problems: Tuple[str, ...]
    #: The file that the rules came from; '' for v1's own list.
    rules: str

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(one.size_bytes for one in self.files)

    def largest(self, count: int) -> List[SurveyedFile]:
        """The largest files first."""
        return sorted(self.files, key=lambda one: (-one.size_bytes, one.path))[:count]


def survey(folder: str) -> Survey:
    """Look at every file of the folder that is not left out; SnapshotException where there is no such folder."""
    root = os.path.realpath(folder)
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise SnapshotException(f"The source folder {folder!r} {what}.")
    rules = read_rules(Path(root))
    files: List[FoundFile] = []
    left_out: List[LeftOut] = []
    problems: List[str] = []
    for one in walk(root, rules):
        if isinstance(one, FoundFile):
            files.append(one)
        elif isinstance(one, Problem):
            problems.append(one.text)
        else:
            rule = rules.why_ignored(one.path, one.is_folder) or ""
            left_out.append(LeftOut(one.path + "/" * one.is_folder, rule))
    files.sort(key=lambda one: one.path)
    return Survey(
        tuple(SurveyedFile(one.path, one.stat.st_size) for one in files),
        tuple(sorted(left_out, key=lambda one: one.path)),
        tuple(_suspicions(files)),
        (*problems, *_wrong_names([one.path for one in files])),
        rules.source or "",
    )


def _suspicions(files: List[FoundFile]) -> Iterator[Suspicion]:
    for one in files:
        why = _why_secret(os.path.basename(one.path), one.absolute)
        if why is not None:
            yield Suspicion(one.path, why)


def _wrong_names(paths: List[str]) -> Iterator[str]:
    for path in paths:
        try:
            check_path(path)
        except UserErrorException as error:
            yield str(error)
    yield from twins(paths)


def _why_secret(name: str, path: str) -> Optional[str]:
    for pattern in SECRET_NAMES:
        if fnmatch.fnmatchcase(name.lower(), pattern):
            return f"its name is like {pattern}"
    try:
        with open(path, "rb") as file:
            head = file.read(LOOK_BYTES)
    except OSError:
        return None
    return next((f"it holds what looks like {what}" for pattern, what in SECRET_TEXTS if pattern.search(head)), None)

"""What a snapshot of a folder would hold, and why the rest would not: nothing is hashed, nothing is sent."""

import fnmatch
import os
import re
import stat
from pathlib import Path
from typing import List, Optional, Set, Tuple

from runyard.errors import SnapshotException, UserErrorException
from runyard.files.ignore import IgnoreRules, read_rules
from runyard.protocol.record import record
from runyard.protocol.trees import check_path

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
        raise SnapshotException(f"The source folder {folder!r} does not exist.")
    rules = read_rules(Path(root))
    found = _Found(root, rules)
    found.walk("", set())
    return Survey(
        tuple(found.files), tuple(found.left_out), tuple(found.suspicions), tuple(found.problems), rules.source or ""
    )


class _Found:
    """A survey under way."""

    def __init__(self, root: str, rules: IgnoreRules) -> None:
        self._root = root
        self._rules = rules
        self.files: List[SurveyedFile] = []
        self.left_out: List[LeftOut] = []
        self.suspicions: List[Suspicion] = []
        self.problems: List[str] = []

    def walk(self, below: str, seen: Set[Tuple[int, int]]) -> None:
        here = os.stat(os.path.join(self._root, below))
        seen = seen | {(here.st_dev, here.st_ino)}
        with os.scandir(os.path.join(self._root, below)) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        for entry in entries:
            path = below + "/" + entry.name if below else entry.name
            rule = self._rules.why_ignored(path, entry.is_dir())
            if rule is not None:
                self.left_out.append(LeftOut(path + "/" * entry.is_dir(), rule))
            else:
                self._take(entry, path, seen)

    def _take(self, entry: "os.DirEntry[str]", path: str, seen: Set[Tuple[int, int]]) -> None:
        target = os.path.realpath(entry.path)
        if entry.is_symlink() and target != self._root and not target.startswith(self._root + os.sep):
            self.problems.append(f"{path!r} is a link that leaves the folder.")
            return
        try:
            facts = entry.stat()
        except OSError as error:
            self.problems.append(f"{path!r} cannot be read: {error.strerror}.")
            return
        if stat.S_ISDIR(facts.st_mode):
            if (facts.st_dev, facts.st_ino) not in seen:
                self.walk(path, seen)
        elif stat.S_ISREG(facts.st_mode):
            try:
                check_path(path)
            except UserErrorException as error:
                self.problems.append(str(error))
            self.files.append(SurveyedFile(path, facts.st_size))
            why = _why_secret(entry.name, entry.path)
            if why is not None:
                self.suspicions.append(Suspicion(path, why))
        else:
            self.problems.append(f"{path!r} is a device, pipe or socket.")


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

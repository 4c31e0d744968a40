"""Trees: which content stands under which path. The form of snapshots, outputs and models. Pure.

A tree is a text of one line an entry, sorted by path: digest, size in bytes, ``x`` or ``-``, and the path as a JSON
string, parted by single blanks, each line ended by a newline. Its digest is its name.
"""

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Tuple

from runyard.errors import UserErrorException
from runyard.protocol.digests import check_digest, digest_bytes

#: Longest path, in characters, and longest part of one, in UTF-8 bytes.
PATH_MAX, PART_BYTES_MAX = 1_024, 255

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class TreeEntry:
    """One file of a tree."""

    path: str
    digest: str
    size_bytes: int
    executable: bool = False


@dataclass(frozen=True)
class Tree:
    """Files by path, sorted."""

    entries: Tuple[TreeEntry, ...]


def encode_tree(tree: Tree) -> bytes:
    """The canonical bytes of a tree; equal trees have equal bytes."""
    lines = [
        "{} {} {} {}\n".format(
            one.digest, one.size_bytes, "x" if one.executable else "-", json.dumps(one.path, ensure_ascii=False)
        )
        for one in sorted(tree.entries, key=lambda entry: entry.path)
    ]
    return "".join(lines).encode("utf-8")


def decode_tree(data: bytes) -> Tree:
    """The tree in ``data``; UserErrorException if it is not in the canonical form or names a hostile path."""
    entries: List[TreeEntry] = []
    try:
        for line in data.decode("utf-8").splitlines():
            digest, size, mode, path = line.split(" ", 3)
            if mode not in ("x", "-") or not size.isdigit():
                raise ValueError(line)
            entries.append(TreeEntry(check_path(json.loads(path)), check_digest(digest), int(size), mode == "x"))
    except (ValueError, TypeError):
        raise UserErrorException("This content is not a tree of files.") from None
    tree = Tree(tuple(entries))
    check_distinct(tree)
    if encode_tree(tree) != data:
        raise UserErrorException("This tree of files is not in its canonical form.")
    return tree


def tree_digest(tree: Tree) -> str:
    """The tree's name."""
    return digest_bytes(encode_tree(tree))


def check_distinct(tree: Tree) -> None:
    """Refuse two paths that are one on some file systems: equal once their characters are composed (NFC)."""
    for sentence in twins(one.path for one in tree.entries):
        raise UserErrorException(sentence)


def twins(paths: Iterable[str]) -> Iterator[str]:
    """A sentence for each path that is one with a path before it, as ``check_distinct`` sees it."""
    seen: Dict[str, str] = {}
    for path in paths:
        other = seen.setdefault(unicodedata.normalize("NFC", path), path)
        if other is not path:
            yield f"{other!r} and {path!r} are the same path."


def check_path(path: str) -> str:
    """``path`` if it is a relative path that stays below its root on every system; UserErrorException otherwise.

    The one rule for every path that comes from outside: parts parted by '/', none empty, '.' or '..', no backslash,
    drive letter, control character or half of a surrogate pair, and within the limits of length.
    """
    shown = repr(path)[:120]
    if not isinstance(path, str) or not path:
        raise UserErrorException(f"A path is a text that is not empty, not {shown}.")
    if len(path) > PATH_MAX:
        raise UserErrorException(f"A path has at most {PATH_MAX} characters, not {len(path)}.")
    if _CONTROL.search(path) or "\\" in path:
        raise UserErrorException(f"The path {shown} has a control character or a backslash.")
    try:
        parts = path.encode("utf-8").split(b"/")
    except UnicodeEncodeError:
        raise UserErrorException(f"The path {shown} is not valid Unicode text.") from None
    if path.startswith("/") or _DRIVE.match(path):
        raise UserErrorException(f"The path {shown} is absolute; paths here are relative.")
    for part in parts:
        if part in (b"", b".", b".."):
            raise UserErrorException(f"The path {shown} has a part that is empty, '.' or '..'.")
        if len(part) > PART_BYTES_MAX:
            raise UserErrorException(f"A part of the path {shown} has more than {PART_BYTES_MAX} bytes.")
    return path

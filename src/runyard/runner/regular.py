"""The regular files below a folder that a script has written, whatever else it has put there."""

import os
import re
from hashlib import sha256
from typing import Dict, Iterator, List

from runyard.protocol.trees import PART_BYTES_MAX

#: What is kept of a name that is longer than a record allows, UTF-8 bytes.
NAME_BYTES_MAX = 200

#: A colon behind a single letter in front would make a path one of a drive.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\udc80-\udcff]|(?<=^[A-Za-z]):")
#: What a quoted character looks like: a name that holds one already is quoted too, so that no two become one.
_QUOTED = re.compile("%[0-9A-F]{2}")


def regular_files(top: str, root: str, notices: Dict[str, None]) -> Iterator[str]:
    """The path of each regular file below ``top``, in order; links lead to files below ``root`` only.

    ``notices`` gets a sentence for each thing that is left out; ``root`` is as it is without links.
    """
    if os.path.islink(top):
        notices[f"{os.path.relpath(top, root)!r} was replaced by a link, so nothing of it was kept."] = None
        return
    for parent, folders, names in os.walk(top):
        folders.sort()
        _notice_links(parent, folders, root, notices)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if _is_regular(path, root, notices):
                yield path


def _notice_links(parent: str, folders: List[str], root: str, notices: Dict[str, None]) -> None:
    for name in folders:
        path = os.path.join(parent, name)
        if os.path.islink(path):
            notices[f"{os.path.relpath(path, root)!r} is a link to a folder, which is not followed."] = None


def _is_regular(path: str, root: str, notices: Dict[str, None]) -> bool:
    if os.path.islink(path):
        target = os.path.realpath(path)
        if not target.startswith(root + os.sep) or not os.path.isfile(target):
            notices[f"{os.path.relpath(path, root)!r} is a link that leaves the working folder."] = None
            return False
        return True
    return os.path.isfile(path)


def record_name(path: str) -> str:
    """A name that every store and page can show: control characters, backslashes, bytes that are no text as %XX.

    A part that is too long is cut, and told from its like by a digest.
    """
    quoted = path
    if _UNSAFE.search(path) or _QUOTED.search(path):
        # A byte that is no text is U+DC00 and itself (PEP 383).
        quoted = _UNSAFE.sub(lambda found: f"%{ord(found.group(0)) & 0xFF:02X}", path.replace("%", "%25"))
    return "/".join(_shortened(part) if len(part.encode()) > PART_BYTES_MAX else part for part in quoted.split("/"))


def _shortened(part: str) -> str:
    stem, suffix = os.path.splitext(part)
    digest = sha256(part.encode()).hexdigest()[:12]
    kept = stem.encode()[:NAME_BYTES_MAX].decode("utf-8", "ignore")
    return f"{kept}-{digest}{suffix if len(suffix) < 20 else ''}"

"""Which path a file of a dataset has below its mount; one rule for the client's listing and the node's folder. Pure."""

import os
import re
from typing import List
from urllib.parse import unquote, urlsplit

#: Finds the first character that makes a path a pattern.
GLOB = re.compile(r"[*?\[]")


def url_path(url: str) -> str:
    """A file of the web keeps its host and path, as v1's mounts did."""
    parts = urlsplit(url)
    return "{}/{}".format(parts.hostname, unquote(parts.path).strip("/") or "index")


def mount_base(asked: str, found: List[str]) -> str:
    """The folder that paths are relative to: the one asked for, a pattern's fixed part, a single file's own."""
    clean = asked.strip("/")
    if GLOB.search(clean):
        return fixed_part(clean)
    return os.path.dirname(clean) if found == [clean] else clean


def fixed_part(pattern: str) -> str:
    """The leading folders of a pattern that hold no pattern."""
    fixed = []
    for part in pattern.split("/"):
        if GLOB.search(part):
            break
        fixed.append(part)
    return "/".join(fixed)

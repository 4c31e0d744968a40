"""Which path a file of a dataset has below its mount; one rule for the client's listing and the node's folder. Pure."""

import os
import re
from hashlib import sha256
from typing import Dict, Iterable, Iterator, List, Optional, Sequence
from urllib.parse import unquote, urlsplit

from runyard.errors import UserErrorException
from runyard.protocol.datasets import Source
from runyard.protocol.datastores import DatastoreFile
from runyard.protocol.record import record

#: Finds the first character that makes a path a pattern.
GLOB = re.compile(r"[*?\[]")
#: Longest address in a message, in characters.
SHOWN_MAX = 300

#: Begins an address's query or fragment.
_BEHIND_PATH = re.compile(r"[?#]")
#: A query with one of these parameters is a signature: it names no other file, and belongs in no file's name.
_SIGNED = re.compile(r"(^|&)(sig|signature|token|[\w-]*-signature)=", re.IGNORECASE)
#: What of a query stands in a file's name as it is, and how many characters of it.
_QUERY_FORBIDDEN, _QUERY_MAX = re.compile(r"[^A-Za-z0-9=&.,+_-]"), 80


def url_path(url: str) -> str:
    """A file of the web keeps its host and path, as v1's mounts did; a query goes before the last part's endings."""
    parts = urlsplit(url)
    folder, slash, name = (unquote(parts.path).strip("/") or "index").rpartition("/")
    if parts.query and not is_signed(url):
        stem, dot, endings = name.partition(".")
        name = f"{stem}_{_query_name(parts.query)}{dot}{endings}"
    return f"{parts.hostname}/{folder}{slash}{name}"


def check_url(url: str) -> str:
    """``url`` if it can be a dataset's: http or https, with a host, and without a user, whom everybody would see."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UserErrorException(f"{shown_url(url)!r} is not an address: {error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UserErrorException(f"{shown_url(url)!r} is not a http or https address.")
    if "@" in parts.netloc:
        raise UserErrorException(
            f"The address {shown_url(url)!r} holds a user or a password, which whoever sees the dataset would see: "
            "use a signed address, or a datastore."
        )
    return url


def shown_url(url: str) -> str:
    """The address as a message shows it, cut: without a user's password, and without what may hold a signature."""
    scheme, slashes, rest = _BEHIND_PATH.split(url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return (scheme + slashes + host.rpartition("@")[2] + slash + path)[:SHOWN_MAX]


def is_signed(url: str) -> bool:
    """Is its query a signature? That of a GET request, which a HEAD request has another one for."""
    return _SIGNED.search(urlsplit(url).query) is not None


def _query_name(query: str) -> str:
    """The query as part of a file's name; one that had to be changed for it is told from others by a digest."""
    name = _QUERY_FORBIDDEN.sub("_", unquote(query))
    if name == query and len(name) <= _QUERY_MAX:
        return name
    return "{}_{}".format(name[:_QUERY_MAX], sha256(query.encode("utf-8", "replace")).hexdigest()[:8])


@record
class DataFile:
    """A file of a dataset: where it is, and its path below the mount."""

    source: Source
    #: An address, a path on this disk, or a path in a datastore. Whoever lists files by several names resolves links.
    origin: str
    relative: str
    #: As a datastore listed it.
    size_bytes: Optional[int] = None
    tag: str = ""

    @property
    def known_as(self) -> str:
        """What tells it from any other file."""
        is_stored = self.source.datastore is not None and not os.path.isabs(self.origin)
        if is_stored:
            return f"{self.source.datastore}/{self.origin}"
        return self.source.url or self.origin

    @property
    def shown(self) -> str:
        """What a message calls it."""
        if self.source.url is None:
            return self.known_as
        return shown_url(self.source.url) + ("?..." if "?" in self.source.url else "")


def distinct_files(files: Iterable[DataFile]) -> Iterator[DataFile]:
    """Each file; one that two sources hold comes once. UserErrorException names two files that cannot both be there.

    They have one path; or one's path is another's folder, which a bucket allows.
    """
    placed: Dict[str, DataFile] = {}
    for one in files:
        other = placed.setdefault(one.relative, one)
        if other is one:
            yield one
        elif other.known_as != one.known_as:
            raise UserErrorException(
                f"{other.shown} and {one.shown} have one path, {one.relative!r}; rename one of them."
            )
    for folder in {above for path in placed for above in _above(path)}:
        if folder in placed:
            raise UserErrorException(
                f"{placed[folder].shown} is a file, and has files below it as a folder has; rename it."
            )


def _above(path: str) -> Iterator[str]:
    """The folders that a path names."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def listed_files(source: Source, listed: Sequence[DatastoreFile], layout: "Layout") -> List[DataFile]:
    """The files that a datastore listed for a source."""
    base = layout.datastore_base(source.path, [one.path for one in listed])
    return [
        DataFile(source, one.path, os.path.relpath(one.path, base or "."), one.size_bytes, one.tag) for one in listed
    ]


@record
class Layout:
    """What the paths of a dataset's files are relative to."""

    #: Is there one source only? Then paths are relative to it; else to the datastore's root, or ``local_base``.
    is_alone: bool
    #: The deepest folder that holds every local source, so that two files of one name from two folders stay two.
    local_base: Optional[str] = None

    def datastore_base(self, asked: str, found: List[str]) -> str:
        """The folder, below the datastore's root, that the files ``found`` at the path ``asked`` are relative to."""
        return mount_base(asked, found) if self.is_alone else ""


def layout_of(sources: Sequence[Source]) -> Layout:
    """The layout of a dataset of these sources."""
    if len(sources) == 1:
        return Layout(True)
    local = [source.file for source in sources if source.file is not None]
    bases = [fixed_part(one) or "/" if GLOB.search(one) else os.path.dirname(one) for one in local]
    return Layout(False, os.path.commonpath(bases) if bases else None)


def mount_base(asked: str, found: List[str]) -> str:
    """The folder that paths are relative to: the one asked for, a pattern's fixed part, a single file's own."""
    clean = asked.strip("/")
    if found == [clean]:
        return os.path.dirname(clean)
    # What is below a path of that very name is a folder's, whatever brackets it has: a pattern matches none of it.
    if GLOB.search(clean) and not (found and all(one.startswith(clean + "/") for one in found)):
        return fixed_part(clean)
    return clean


def fixed_part(pattern: str) -> str:
    """The leading folders of a pattern that hold no pattern."""
    fixed = []
    for part in pattern.split("/"):
        if GLOB.search(part):
            break
        fixed.append(part)
    return "/".join(fixed)

"""What a package index knows of a package: its releases, when each came, which Pythons of this host each fits.

Formats: the simple API of PEP 691 (JSON, with the upload times of PEP 700) and of PEP 503 (HTML); some mirrors give the
upload time there as ``data-upload-time``.
"""

import base64
import http.client
import json
import re
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from html.parser import HTMLParser
from typing import Any, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Tuple

from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, platform_tags
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from runyard.environments.spec import is_day
from runyard.environments.uv import Log
from runyard.protocol.environments import without_credentials
from runyard.protocol.record import record

PYPI = "https://pypi.org/simple"
#: Longest wait for one page, seconds; largest page, bytes; pages fetched at once.
TIMEOUT_S, PAGE_MAX, AT_ONCE = 30.0, 64 << 20, 8

#: What a page that cannot be had or read raises: brackets without end, and markup that is none, among them.
_UNREADABLE = (OSError, ValueError, http.client.HTTPException, RecursionError, AssertionError)

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@record
class Release:
    """One version of a package."""

    version: Version
    #: Day of its first file, YYYY-MM-DD; None where the index does not say.
    uploaded: Optional[str]
    tags: FrozenSet[Tag]
    has_source: bool
    needs_python: SpecifierSet

    def has_wheel_for(self, minor: str) -> bool:
        """Is there a wheel for that minor version of CPython on this host?"""
        return bool(self.tags & tags_of(minor)) and self.allows(minor)

    def allows(self, minor: str) -> bool:
        """Does the release say that it runs on that Python? Patch releases count as equal."""
        return self.needs_python.contains(minor + ".99") or self.needs_python.contains(minor + ".0")


class Index:
    """The indexes that uv would ask, read once a package."""

    def __init__(self, urls: Sequence[str], log: Log) -> None:
        self._urls = urls
        self._log = log
        self._pages: Dict[str, Tuple[Release, ...]] = {}

    def fetch(self, names: Iterable[str]) -> None:
        """Read the pages of these packages, some at once."""
        missing = sorted({canonicalize_name(name) for name in names} - set(self._pages))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._pages.update(zip(missing, pool.map(self._read, missing)))

    def releases(self, name: str) -> Tuple[Release, ...]:
        """The package's releases, newest first; empty where no index has it or can be asked."""
        key = canonicalize_name(name)
        if key not in self._pages:
            self._pages[key] = self._read(key)
        return self._pages[key]

    def _read(self, name: str) -> Tuple[Release, ...]:
        files: List[_File] = []
        for url in self._urls:
            try:
                files.extend(_page(url.rstrip("/") + "/" + name + "/"))
            except _UNREADABLE as error:
                shown = without_credentials(url)
                self._log(f"What {shown} has of {name} is not known: {without_credentials(str(error))}.")
        return tuple(sorted(_releases(name, files), key=lambda one: one.version, reverse=True))


def index_urls(options: Sequence[str], settings: Mapping[str, str]) -> Tuple[str, ...]:
    """The indexes that ``options`` of a file, and else ``settings`` of uv, name; none for ``--no-index``."""
    main, extra = [], []
    for option in options:
        word, _, value = option.replace("=", " ", 1).partition(" ")
        if word == "--no-index":
            return ()
        if word in ("-i", "--index-url"):
            main.append(value.strip())
        elif word == "--extra-index-url":
            extra.append(value.strip())
    default = settings.get("UV_DEFAULT_INDEX") or settings.get("UV_INDEX_URL") or PYPI
    others = (settings.get("UV_INDEX") or settings.get("UV_EXTRA_INDEX_URL") or "").split()
    return tuple(extra + [one.split("=", 1)[-1] if "://" in one.split("=", 1)[-1] else one for one in others]
                 + (main or [default]))  # fmt: skip


@lru_cache(maxsize=32)
def tags_of(minor: str) -> FrozenSet[Tag]:
    """What wheels that minor version of CPython takes on this host."""
    version = tuple(int(part) for part in minor.split("."))
    platforms = list(platform_tags())
    interpreter = "cp{}{}".format(*version)
    return frozenset(cpython_tags(version, platforms=platforms)) | frozenset(
        compatible_tags(version, interpreter, platforms)
    )


@record
class _File:
    name: str
    #: YYYY-MM-DD.
    uploaded: Optional[str]
    needs_python: str
    is_yanked: bool


def _page(url: str) -> List[_File]:
    request = _request(url)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            body = reply.read(PAGE_MAX)
            is_json = "json" in (reply.headers.get("Content-Type") or "")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise
    text = body.decode("utf-8", "replace")
    return _from_json(json.loads(text)) if is_json else _from_html(text)


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("it is no address of the web")
    headers = {"Accept": _ACCEPT}
    if parts.username is not None:
        pair = "{}:{}".format(urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or ""))
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urllib.request.Request(parts.geturl(), headers=headers)


def _from_json(page: Any) -> List[_File]:
    entries = page.get("files") if isinstance(page, dict) else None
    if not isinstance(entries, list):
        raise ValueError("its answer is no page of a package index")
    return [
        _File(one["filename"], _day(one.get("upload-time")), _text(one.get("requires-python")), bool(one.get("yanked")))
        for one in entries
        if isinstance(one, dict) and isinstance(one.get("filename"), str)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _day(value: Any) -> Optional[str]:
    """The day of a time, YYYY-MM-DD; None where it is none."""
    day = _text(value)[:10]
    return day if is_day(day) else None


def _from_html(text: str) -> List[_File]:
    parser = _Links()
    parser.feed(text)
    return parser.files


class _Links(HTMLParser):
    """The anchors of a page of PEP 503."""

    def __init__(self) -> None:
        super().__init__()
        self.files: List[_File] = []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        found = dict(attrs)
        if tag != "a" or not found.get("href"):
            return
        try:
            path = urllib.parse.urlsplit(str(found["href"])).path
        except ValueError:
            return
        name = urllib.parse.unquote(path.rsplit("/", 1)[-1])
        uploaded = _day(found.get("data-upload-time"))
        self.files.append(_File(name, uploaded, found.get("data-requires-python") or "", "data-yanked" in found))


def _releases(name: str, files: Sequence[_File]) -> List[Release]:
    by_version: Dict[Version, List[Tuple[_File, FrozenSet[Tag], bool]]] = {}
    for file in files:
        parsed = _parse(name, file.name)
        if parsed is not None and not file.is_yanked:
            version, tags, is_source = parsed
            by_version.setdefault(version, []).append((file, tags, is_source))
    return [_release(version, found) for version, found in by_version.items()]


def _release(version: Version, found: Sequence[Tuple[_File, FrozenSet[Tag], bool]]) -> Release:
    days = sorted(file.uploaded for file, _, _ in found if file.uploaded)
    tags: FrozenSet[Tag] = frozenset().union(*(tags for _, tags, _ in found))
    return Release(
        version=version,
        uploaded=days[0] if days else None,
        tags=tags,
        has_source=any(is_source for _, _, is_source in found),
        needs_python=_specifier(next((file.needs_python for file, _, _ in found if file.needs_python), "")),
    )


def _specifier(text: str) -> SpecifierSet:
    try:
        found = SpecifierSet(text)
        found.contains("3.7")  # Its versions are read only now.
    except ValueError:
        return SpecifierSet()
    return found


def _parse(name: str, filename: str) -> Optional[Tuple[Version, FrozenSet[Tag], bool]]:
    """(version, a wheel's tags, is it a source) of a file; None for eggs, installers and what belongs to another."""
    try:
        if filename.endswith(".whl"):
            found, version, _, tags = parse_wheel_filename(filename)
            return (version, tags, False) if found == name else None
        found, version = parse_sdist_filename(re.sub(r"\.(tar\.bz2|tgz)$", ".tar.gz", filename))
        return (version, frozenset(), True) if found == name else None
    except ValueError:
        return None

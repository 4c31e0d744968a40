"""Packages as they lie in an environment, byte code among them: kept once, hard-linked into each that pins the same.

What a layer holds is known by size and time of each file, so that one which somebody has changed is found out.
"""

import csv
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from runyard.environments.pins import requirement_name
from runyard.environments.uv import tool_environment

#: What of the host's settings decides which file a pin means.
_INDEX_SETTINGS = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_BINARY",
)
#: Put there by the environment's own maker, and by no package.
_SKELETON_NAMES = ("_virtualenv.py", "_virtualenv.pth")

_MAKING = ".making-"
#: A layer that was begun so long ago is nobody's any more, seconds.
LEFTOVER_S = 3600.0

#: (path inside the environment, size, time in nanoseconds); for a link, its target instead of a size.
Entry = Tuple[str, Any, int]


class Layers:
    """The layers of one host for one Python."""

    def __init__(self, root_folder: str, python: str, options: Sequence[str], as_of: Optional[str]) -> None:
        self._folder = layers_folder(root_folder)
        settings = tool_environment(os.environ)
        source = [python, *sorted(options), as_of or "", *(settings.get(name, "") for name in _INDEX_SETTINGS)]
        self._source = json.dumps(source)
        self._site = os.path.join("lib", "python" + python, "site-packages")

    def place_skeleton(self, folder: str) -> bool:
        """Make ``folder`` an empty environment; False where that is not kept, or its interpreter is another by now."""
        layer = self._layer("skeleton")
        entries = _read(layer)
        if entries is None:
            return False
        try:
            with open(os.path.join(layer, "interpreter.json"), encoding="utf-8") as stream:
                if json.load(stream) != _interpreter(folder_of(layer)):
                    return False
            return _link_all(folder_of(layer), entries, folder)
        except (OSError, ValueError, _ChangedError):
            return False

    def keep_skeleton(self, folder: str) -> None:
        """Keep an environment in which no package is yet."""
        self._keep("skeleton", folder, list(_files(folder)), {"interpreter.json": _interpreter(folder)})

    def count(self, pins: Sequence[str]) -> int:
        """How many of ``pins`` are kept."""
        return sum(1 for pin in pins if is_fixed(pin) and os.path.exists(os.path.join(self._layer(pin), "files.json")))

    def place(self, pins: Sequence[str], folder: str) -> Tuple[List[str], List[str]]:
        """Put into ``folder`` what is kept of ``pins``: (those that are not there now, those that had been changed)."""
        read = {pin: _read(self._layer(pin)) for pin in pins if is_fixed(pin)}
        kept = {pin: entries for pin, entries in read.items() if entries is not None}
        paths = [path for entries in kept.values() for path, _, _ in entries]
        if len(set(paths)) != len(paths):
            return list(pins), []  # Two packages bring one file: whose counts is for the installer to say.
        done = {pin: self._place(pin, entries, folder) for pin, entries in kept.items()}
        changed = [pin for pin in pins if pin in done and done[pin] is None]
        return [pin for pin in pins if not done.get(pin)], changed

    def _place(self, pin: str, entries: Sequence[Entry], folder: str) -> Optional[bool]:
        """Was it put there? None: somebody had changed it, and it is forgotten."""
        layer = self._layer(pin)
        try:
            return _link_all(folder_of(layer), entries, folder)
        except _ChangedError:
            shutil.rmtree(layer, ignore_errors=True)
            return None

    def keep(self, pins: Sequence[str], folder: str) -> None:
        """Keep what was installed for ``pins``; nothing at all where some file is no package's, as far as they say."""
        by_name = {requirement_name(pin): pin for pin in pins if is_fixed(pin)}
        owned: Dict[str, List[str]] = {}
        claimed: Set[str] = set()
        for name, paths in self._recorded(folder):
            claimed.update(paths)
            owned[name] = paths
        site = os.path.join(folder, self._site)
        for path in _files(site):
            if (
                path not in _SKELETON_NAMES
                and "__pycache__" not in path
                and os.path.join(self._site, path) not in claimed
            ):
                return
        for name, pin in by_name.items():
            if name in owned:
                self._keep(pin, folder, owned[name] + _compiled(folder, owned[name]), {})

    def _recorded(self, folder: str) -> Iterator[Tuple[str, List[str]]]:
        """Each installed package, '' where it is not whole, and its files (PEP 376): paths inside the environment."""
        site = os.path.join(folder, self._site)
        for name in sorted(os.listdir(site)):
            if not name.endswith(".dist-info"):
                continue
            paths = []
            try:
                with open(os.path.join(site, name, "RECORD"), encoding="utf-8", newline="") as stream:
                    for row in _rows(stream.read()):
                        paths.append(os.path.normpath(os.path.join(self._site, row)))
            except OSError:
                continue
            kept = [path for path in paths if _is_inside(path) and "__pycache__" not in path]
            is_whole = all(os.path.isfile(os.path.join(folder, path)) for path in kept)
            yield requirement_name(name.split("-")[0]) if is_whole else "", kept

    def _keep(self, what: str, folder: str, paths: Sequence[str], facts: Mapping[str, Any]) -> None:
        layer = self._layer(what)
        os.makedirs(os.path.dirname(layer), exist_ok=True)
        temporary = tempfile.mkdtemp(prefix=_MAKING, dir=os.path.dirname(layer))
        try:
            entries = [_entry(folder, path) for path in sorted(set(paths))]
            if not _link_all(folder, entries, folder_of(temporary)):
                return
            for name, value in {**facts, "files.json": entries}.items():
                with open(os.path.join(temporary, name), "w", encoding="utf-8") as stream:
                    json.dump(value, stream)
            shutil.rmtree(layer, ignore_errors=True)
            os.rename(temporary, layer)
        except OSError:
            pass  # Another build was first, or there is no room: it is only a short cut.
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _layer(self, what: str) -> str:
        digest = hashlib.sha256(f"{self._source}\n{what}".encode()).hexdigest()
        return os.path.join(self._folder, digest[:2], digest)


def is_fixed(pin: str) -> bool:
    """Does the pin mean the same content for ever?"""
    return bool(re.match(r"^[^@\s]+==[^*\s]+$", pin)) or "#sha256=" in pin or "@ runyard://" in pin


def layers_folder(root_folder: str) -> str:
    """Where the layers of every Python are."""
    return os.path.join(root_folder, "caches", "layers")


def forget_unused_layers(root_folder: str) -> int:
    """Remove the layers that no environment has any more; how many. Looks at every file of every environment."""
    used = set(_inodes(os.path.join(root_folder, "envs")))
    removed = 0
    for parent, folders, names in os.walk(layers_folder(root_folder)):
        for name in [one for one in folders if one.startswith(_MAKING)]:
            folders.remove(name)
            removed += _remove_leftover(os.path.join(parent, name))
        if "files.json" in names:
            folders[:] = []
            if not _has_any(parent, used):
                shutil.rmtree(parent, ignore_errors=True)
                removed += 1
    return removed


def _remove_leftover(path: str) -> bool:
    """Was that a layer which a killed build began? One that is being made takes seconds."""
    with suppress(FileNotFoundError):
        if time.time() - os.stat(path).st_mtime > LEFTOVER_S:
            shutil.rmtree(path, ignore_errors=True)
            return True
    return False


def _inodes(folder: str) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # A build that is under way has files come and go.
                yield os.lstat(os.path.join(parent, name)).st_ino


def _has_any(layer: str, inodes: Set[int]) -> bool:
    try:
        return any(os.lstat(f"{folder_of(layer)}/{path}").st_ino in inodes for path, _, _ in _read(layer) or ())
    except OSError:
        return False


def folder_of(layer: str) -> str:
    """Where a layer's files are, apart from what is noted of them."""
    return os.path.join(layer, "files")


def _read(layer: str) -> Optional[List[Entry]]:
    try:
        with open(os.path.join(layer, "files.json"), encoding="utf-8") as stream:
            return [(str(name), size, int(time_ns)) for name, size, time_ns in json.load(stream)]
    except (OSError, ValueError, TypeError):
        return None


def _entry(folder: str, path: str) -> Entry:
    whole = folder + "/" + path
    facts = os.lstat(whole)
    if stat.S_ISLNK(facts.st_mode):
        return path, os.readlink(whole), 0
    return path, facts.st_size, facts.st_mtime_ns


def _link_all(source: str, entries: Sequence[Entry], target: str) -> bool:
    """Hard-link the entries below ``target``; False where that is not possible, on another disk say.

    _ChangedError where one is not what it was when it was noted. Either way none of them is left there: an installer
    takes a package for whole by its metadata alone. By the descriptors of its thousand folders, since a path of twelve
    parts costs as much as the link.
    """
    done: List[str] = []
    try:
        _link_each(source, entries, target, done)
        return True
    except FileNotFoundError:
        _remove_each(target, entries, done)
        raise _ChangedError from None
    except OSError:
        _remove_each(target, entries, done)
        return False
    except BaseException:
        _remove_each(target, entries, done)
        raise


def _link_each(source: str, entries: Sequence[Entry], target: str, done: List[str]) -> None:
    by_folder: Dict[str, List[Tuple[str, Any, int]]] = {}
    for path, size, time_ns in entries:
        parent, _, name = path.rpartition("/")
        by_folder.setdefault(parent, []).append((name, size, time_ns))
    for parent in sorted(by_folder):
        _make_folder(os.path.join(target, parent))
        with _opened(os.path.join(source, parent)) as here, _opened(os.path.join(target, parent)) as there:
            for name, size, time_ns in by_folder[parent]:
                _link(here, there, name, size, time_ns)
                done.append(f"{parent}/{name}" if parent else name)


def _remove_each(folder: str, entries: Sequence[Entry], paths: Sequence[str]) -> None:
    """And the folders of ``entries`` that are empty then: even so, one of metadata counts as a package."""
    for path in paths:
        with suppress(OSError):
            os.unlink(os.path.join(folder, path))
    parents = {path[: at.start()] for path, _, _ in entries for at in re.finditer("/", path)}
    for parent in sorted(parents, reverse=True):
        with suppress(OSError):
            os.rmdir(os.path.join(folder, parent))


@contextmanager
def _opened(folder: str) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _link(source: int, target: int, name: str, size: Any, time_ns: int) -> None:
    if isinstance(size, str):
        os.symlink(size, name, dir_fd=target)
        return
    facts = os.stat(name, dir_fd=source, follow_symlinks=False)
    if (facts.st_size, facts.st_mtime_ns) != (size, time_ns):
        raise _ChangedError
    os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)


class _ChangedError(Exception):
    """A file of a layer is not what it was."""


def _make_folder(path: str) -> None:
    """As makedirs, which asks the disk four times for each of a thousand folders."""
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)


def _interpreter(folder: str) -> List[Any]:
    """What is beneath an environment: its program, by size and time."""
    path = os.path.realpath(os.path.join(folder, "bin", "python"))
    facts = os.stat(path)
    return [path, facts.st_size, facts.st_mtime_ns]


def _files(folder: str) -> Iterator[str]:
    """Every file and link below ``folder``, as paths in it."""
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            yield os.path.relpath(os.path.join(parent, name), folder)


def _rows(text: str) -> Iterator[str]:
    return (row[0] for row in csv.reader(text.splitlines()) if row and row[0])


def _compiled(folder: str, paths: Sequence[str]) -> List[str]:
    """The byte code of those modules, as far as it is there."""
    wanted: Dict[str, Set[str]] = {}
    for path in paths:
        if path.endswith(".py"):
            wanted.setdefault(os.path.dirname(path), set()).add(os.path.basename(path)[: -len(".py")])
    found = []
    for parent, stems in wanted.items():
        cache = os.path.join(parent, "__pycache__")
        try:
            names = os.listdir(os.path.join(folder, cache))
        except OSError:
            continue
        found += [os.path.join(cache, name) for name in names if name.split(".")[0] in stems]
    return found


def _is_inside(path: str) -> bool:
    return not os.path.isabs(path) and not path.startswith("..")

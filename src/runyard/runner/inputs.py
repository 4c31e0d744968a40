"""Binds a run's data: a link where they lie on this disk already, a copy or a checked download elsewhere."""

import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from runyard.client.downloads import Downloads, Tally, Wanted
from runyard.client.http import Server
from runyard.errors import NotFoundError, ServiceException, UserErrorException
from runyard.files.cache import open_cache
from runyard.files.datastores import FolderDatastore
from runyard.files.inside import join_inside
from runyard.files.listing import list_source, totals_of
from runyard.protocol.datasets import Source
from runyard.protocol.datastores import Listing, left_out_sentence
from runyard.protocol.lineage import SeenFile, SeenFiles
from runyard.protocol.mounted import MountedFile
from runyard.protocol.mounts import GLOB, DataFile, distinct_files, layout_of, listed_files, shown_url, url_path
from runyard.protocol.plan import InputPlan
from runyard.protocol.runs import InputMode
from runyard.protocol.selection import select
from runyard.protocol.trees import check_path
from runyard.protocol.words import counted
from runyard.runner.folder import AttemptFolder
from runyard.runner.mount import PATIENCE_S, mount, why_not
from runyard.runner.user import is_open, share
from runyard.runner.warn import warn

#: How often a preparation says how far it is, seconds.
SAY_S = 2.0

Say = Callable[[str], None]


def bind_inputs(folder: AttemptFolder, server: Server, say: Say) -> Dict[str, str]:
    """Make every input of the plan readable here; returns the path of each, by name.

    UserErrorException names the input and the file that is missing or cannot be had.
    """
    asked = [one for one in folder.plan.inputs if one.mode != InputMode.DIRECT]
    return {one.name: _Binding(folder, server, one, say).make() for one in asked}


class _Binding:
    """One input on its way to a folder of the attempt."""

    def __init__(self, folder: AttemptFolder, server: Server, asked: InputPlan, say: Say) -> None:
        self._folder = folder
        self._server = server
        self._asked = asked
        self._say = say
        self._layout = layout_of(asked.sources)
        self._names: Dict[str, Any] = {"workspace": folder.plan.workspace}
        #: Folders of the input by their paths below it; the folders of its files without links.
        self._parents: Dict[str, str] = {}
        self._real_parents: Dict[str, str] = {}

    def make(self) -> str:
        asked = self._asked
        if asked.is_reference and asked.mode == InputMode.MOUNT and self._is_direct(asked.sources[0]):
            return str(self._reference(asked.sources[0]))
        self._root = self._target()
        self._root.mkdir(parents=True, exist_ok=True)
        found = list(self._found())
        if not all(source.url is not None for source in asked.sources):
            self._compare(SeenFiles(totals=totals_of(found)))
        kept = [found[place] for place in select([one.relative for one in found], asked.steps)]
        if not kept:
            sought = ", ".join(map(_shown, asked.sources))
            if not asked.is_reference:
                raise UserErrorException(f"Input {asked.name!r} is empty: nothing matches {sought}.")
            # A mount may be meant to be written to; what is downloaded is meant to be read.
            if asked.mode == InputMode.DOWNLOAD:
                sentence = f"Input {asked.name!r} is an empty folder: nothing is at {sought}."
                warn(self._folder, self._server, sentence)
        for one in kept:
            if one.source.file is not None and self._folder.is_servers(one.origin):
                raise UserErrorException(f"Input {asked.name!r}: {one.origin!r} is the server's own.")
        if self._is_mounted(kept):
            return str(self._root)
        self._bring([one for one in kept if self._is_fetched(one.source)])
        self._bind([one for one in kept if not self._is_fetched(one.source)])
        return str(self._root)

    def _is_mounted(self, files: List[DataFile]) -> bool:
        """Mount them, if some are in a datastore far from here and not in the cache yet, and this machine can."""
        asked = self._asked
        remote = [one for one in files if one.source.url is None and self._is_fetched(one.source)]
        if asked.mode != InputMode.MOUNT or asked.path_on_compute is not None or not remote:
            return False
        # A mount can but link to a file of this disk, which the job's user may not be able to follow.
        if len(remote) < len(files) and (self._folder.has_user or any(one.source.url is not None for one in files)):
            return False
        if self._are_cached(remote):
            return False
        told = [MountedFile.of(one, not self._is_fetched(one.source)) for one in files]
        reason = why_not() or mount(self._folder, asked.name, told, partial(warn, self._folder, self._server))
        if reason:
            self._folder.note(f"Input {asked.name!r} is downloaded and not mounted: {reason}.")
            return False
        size = sum(one.size_bytes or 0 for one in remote)
        what = f"Input {asked.name!r}: {counted(len(remote), 'file')}, {counted(size, 'byte')}"
        self._folder.note(what + ", mounted; what is read comes then.")
        return True

    def _are_cached(self, files: List[DataFile]) -> bool:
        cache, workspace = open_cache(self._folder.facts.cache_folder), self._folder.plan.workspace
        downloads = Downloads(self._server, workspace, False)
        return all(one.tag and cache.find(downloads.key(Wanted.of(one, ""))) is not None for one in files)

    def _found(self) -> Iterator[DataFile]:
        """Each file of the sources, in their order."""
        try:
            yield from distinct_files(one for source in self._asked.sources for one in self._files_at(source))
        except NotFoundError:
            raise
        except UserErrorException as error:
            raise UserErrorException(f"Input {self._asked.name!r}: {error}") from None

    def _is_here(self, source: Source) -> bool:
        """Do the datastore's files lie on this machine's disk?"""
        return not source.is_remote and self._folder.facts.datastores_folder is not None

    def _is_direct(self, source: Source) -> bool:
        """May the script have the datastore's own folder? Not under a user of its own: it is the server's user's."""
        return self._is_here(source) and not self._folder.has_user

    def _is_fetched(self, source: Source) -> bool:
        """Do its files come over the network?"""
        return source.url is not None or (source.file is None and not self._is_here(source))

    def _target(self) -> Path:
        own = self._folder.inputs / self._asked.name
        if self._asked.path_on_compute is None:
            return own
        wanted = Path(self._asked.path_on_compute)
        if wanted.is_absolute():
            # v1 scripts name paths like /tmp/data; on a shared host they get a place of their own with that tail.
            return own / wanted.relative_to("/")
        return join_inside(self._folder.work, check_path(str(wanted)))

    def _reference(self, source: Source) -> Path:
        root = self._folder.datastore_root(source)
        clean = source.path.strip("/")
        target = join_inside(root, check_path(clean)) if clean else root
        if not target.exists():
            target.mkdir(parents=True, exist_ok=True)
        return target

    def _files_at(self, source: Source) -> List[DataFile]:
        """The source's files; UserErrorException where it names a file or folder that is not there."""
        found = self._files(source)
        path = source.path if source.file is None else source.file
        if not found and len(self._asked.sources) > 1 and not GLOB.search(path) and not self._is_folder(source):
            raise UserErrorException(f"nothing is there at {_shown(source)}.")
        return found

    def _is_folder(self, source: Source) -> bool:
        if source.file is not None:
            return os.path.isdir(source.file)
        return self._is_here(source) and (self._folder.datastore_root(source) / source.path.strip("/")).is_dir()

    def _files(self, source: Source) -> List[DataFile]:
        if source.url is not None:
            # A URL keeps its host and path below the mount, as v1's did.
            return [DataFile(source, source.url, check_path(url_path(source.url)))]
        if source.file is None and not self._is_here(source):
            names = {**self._names, "name": source.datastore}
            listed: Listing = self._server.call("list_datastore_files", query={"path": source.path}, **names)
            self._tell_left_out(source, listed.left_out_count, listed.left_out)
            return listed_files(source, listed.files, self._layout)
        return [
            DataFile(source, self._real(path), relative, size) for path, relative, size in self._local_files(source)
        ]

    def _real(self, path: str) -> str:
        """The path without links; a folder's is found out once for all of its files."""
        if os.path.islink(path):
            return os.path.realpath(path)
        parent, name = os.path.split(path)
        real = self._real_parents.get(parent)
        if real is None:
            real = self._real_parents[parent] = os.path.realpath(parent)
        return os.path.join(real, name)

    def _bring(self, files: List[DataFile]) -> None:
        """Files of the web or of a datastore far from here: several at once."""
        if not files:
            return
        asked, plan = self._asked, self._folder.plan
        wanted = [Wanted.of(one, self._place(one)) for one in files]
        sizes = [one.size_bytes for one in files]
        known = [size for size in sizes if size is not None]
        tally = Tally(f"Downloading input {asked.name!r}", len(files), sum(known) if len(known) == len(sizes) else None)
        said_at = [time.monotonic()]

        def tick() -> None:
            if time.monotonic() - said_at[0] >= SAY_S:
                said_at[0] = time.monotonic()
                self._say(tally.sentence())

        may_link, is_private_ok = asked.mode == InputMode.MOUNT, plan.allow_private_urls
        downloads = Downloads(
            self._server,
            plan.workspace,
            is_private_ok,
            open_cache(self._folder.facts.cache_folder),
            may_link,
            PATIENCE_S,
        )
        received = downloads.carry_out(wanted, tally.add_bytes, tally.add_file, tick)
        size = sum(one.size_bytes for one in received)
        what = f"{counted(len(received), 'file')}, {counted(size, 'byte')}"
        self._folder.note(f"Input {asked.name!r}: {what}, downloaded.")
        fetched = [
            SeenFile(one.wanted.url, one.size_bytes, one.sha256) for one in received if one.wanted.url is not None
        ]
        if fetched:
            self._compare(SeenFiles(tuple(fetched)))

    def _compare(self, seen: SeenFiles) -> None:
        """Say what of this dataset is not as it was when it was registered, or when a run first read it."""
        plan, dataset_id = self._folder.plan, self._asked.dataset_id
        if dataset_id is None:
            return
        names: Dict[str, Any] = {"workspace": plan.workspace, "run_id": plan.run_id, "dataset_id": dataset_id}
        try:
            told = self._server.call("note_dataset_files", seen, **names)
        except ServiceException as error:
            self._folder.say(f"its files could not be compared: {error}")
            return
        for sentence in told.sentences:
            self._folder.note(f"Input {self._asked.name!r}: {sentence}")

    def _bind(self, files: List[DataFile]) -> None:
        """Files of this disk."""
        if not files:
            return
        is_linked = self._asked.mode == InputMode.MOUNT
        for one in files:
            place = self._place(one)
            if self._folder.has_user and not is_open(one.origin):
                self._share(one, place)
            elif is_linked:
                os.symlink(one.origin, place)
            else:
                shutil.copyfile(one.origin, place)
        how = "linked to where they are on this disk" if is_linked else "copied"
        self._folder.note(f"Input {self._asked.name!r}: {counted(len(files), 'file')}, {how}.")

    def _share(self, one: DataFile, place: str) -> None:
        """A file that the job's user may not read by its path: a datastore's comes with the datastore."""
        if one.source.file is not None:
            raise UserErrorException(
                f"Input {self._asked.name!r}: {one.origin!r} is closed to the job's user; let others read it, or "
                "upload it to a datastore."
            )
        share(one.origin, place)

    def _local_files(self, source: Source) -> List[Tuple[str, str, Optional[int]]]:
        """(absolute path, path below the mount, size if it is known) of a source's files on this disk."""
        if source.file is not None:
            return [(*found, None) for found in list_source(source.file, self._layout.local_base)]
        root = self._folder.datastore_root(source)
        notices: Dict[str, None] = {}
        listed = FolderDatastore(root, is_own=source.root is None).list(source.path, notices)
        self._tell_left_out(source, len(notices), notices)
        base = self._layout.datastore_base(source.path, [one.path for one in listed])
        return [(str(root / one.path), os.path.relpath(one.path, base or "."), one.size_bytes) for one in listed]

    def _tell_left_out(self, source: Source, count: int, reasons: Iterable[str]) -> None:
        sentence = left_out_sentence(source.datastore or "", count, reasons)
        if sentence:
            warn(self._folder, self._server, f"Input {self._asked.name!r}: {sentence}")

    def _place(self, one: DataFile) -> str:
        """Where a file goes: never where the source folder has one already."""
        above, name = os.path.split(one.relative)
        parent = self._parents.get(above)
        if parent is None:
            folder = join_inside(self._root, above)
            folder.mkdir(parents=True, exist_ok=True)
            parent = self._parents[above] = str(folder)
        place = os.path.join(parent, name)
        if self._asked.path_on_compute is not None and os.path.lexists(place):
            raise UserErrorException(
                f"Input {self._asked.name!r}: a file of the source folder and {one.shown} have one path, "
                f"{one.relative!r}; rename one of them."
            )
        return place


def _shown(source: Source) -> str:
    if source.url is not None:
        return shown_url(source.url)
    return source.file or f"{source.datastore}/{source.path}"

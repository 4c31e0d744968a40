"""Binds a run's data: a link where they lie on this disk already, a copy or a checked download elsewhere."""

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from runyard.client.http import Server
from runyard.client.transfer import receive_file
from runyard.errors import UserErrorException
from runyard.files.datastores import FolderDatastore
from runyard.files.fetch import fetch
from runyard.files.inside import join_inside
from runyard.files.listing import list_source
from runyard.protocol.mounts import layout_of, url_path
from runyard.protocol.plan import InputPlan, Source
from runyard.protocol.runs import InputMode
from runyard.protocol.trees import check_path
from runyard.runner.folder import AttemptFolder

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
        #: Where each file came from, by its place.
        self._placed: Dict[Path, str] = {}

    def make(self) -> str:
        asked = self._asked
        if asked.is_reference and asked.mode == InputMode.MOUNT and self._is_here(asked.sources[0]):
            return str(self._reference(asked.sources[0]))
        self._root = self._target()
        self._root.mkdir(parents=True, exist_ok=True)
        count = sum(self._bind(source) for source in asked.sources)
        if count == 0 and not asked.is_reference:
            sought = ", ".join(map(_shown, asked.sources))
            raise UserErrorException(f"Input {asked.name!r} is empty: nothing matches {sought}.")
        return str(self._root)

    def _is_here(self, source: Source) -> bool:
        """Do the datastore's files lie on this machine's disk?"""
        return not source.is_remote and self._folder.facts.datastores_folder is not None

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
        root = self._datastore_root(source)
        clean = source.path.strip("/")
        target = join_inside(root, check_path(clean)) if clean else root
        if not target.exists():
            target.mkdir(parents=True, exist_ok=True)
        return target

    def _bind(self, source: Source) -> int:
        if source.url is not None:
            return self._download(source.url)
        if source.file is None and not self._is_here(source):
            return self._receive(source)
        found = self._local_files(source)
        for path, relative in found:
            self._link_or_copy(os.path.realpath(path), relative)
        return len(found)

    def _download(self, url: str) -> int:
        """A URL keeps its host and path below the mount, as v1's did."""
        place = self._place(url, check_path(url_path(url)))
        if place is not None:
            self._say(f"Downloading {url}")
            fetch(url, str(place), allow_private=self._folder.plan.allow_private_urls)
        return 1

    def _receive(self, source: Source) -> int:
        """Files of a datastore that lies on the server's disk and not on this one."""
        names = {**self._names, "name": source.datastore}
        files = self._server.call("list_datastore_files", query={"path": source.path}, **names)
        base = self._layout.datastore_base(source.path, [one.path for one in files])
        for one in files:
            place = self._place(f"{source.datastore}/{one.path}", os.path.relpath(one.path, base or "."))
            if place is not None:
                self._say(f"Downloading {one.path} from {source.datastore}")
                receive_file(self._server.stream("read_datastore_file", path=one.path, **names), str(place))
        return len(files)

    def _local_files(self, source: Source) -> List[Tuple[str, str]]:
        """(absolute path, path below the mount) of a source's files on this disk."""
        if source.file is not None:
            return list_source(source.file, self._layout.local_base)
        root = self._datastore_root(source)
        paths = [one.path for one in FolderDatastore(root).list(source.path)]
        base = self._layout.datastore_base(source.path, paths)
        return [(str(root / path), os.path.relpath(path, base or ".")) for path in paths]

    def _datastore_root(self, source: Source) -> Path:
        if source.root is not None:
            return Path(source.root)
        return Path(self._folder.facts.datastores_folder or "") / self._folder.plan.workspace / str(source.datastore)

    def _link_or_copy(self, origin: str, relative: str) -> None:
        place = self._place(origin, relative)
        if place is not None and self._asked.mode == InputMode.MOUNT:
            os.symlink(origin, str(place))
        elif place is not None:
            shutil.copyfile(origin, str(place))

    def _place(self, origin: str, relative: str) -> Optional[Path]:
        """Where a file goes; None where this very file is there already, since two sources hold it."""
        parent = join_inside(self._root, os.path.dirname(relative))
        place = parent / os.path.basename(relative)
        other = self._placed.get(place)
        if other == origin:
            return None
        if other is not None or os.path.lexists(str(place)):
            what = other or "a file of the source folder"
            raise UserErrorException(
                f"Input {self._asked.name!r}: {what} and {origin} have one path, {relative!r}; rename one of them."
            )
        self._placed[place] = origin
        parent.mkdir(parents=True, exist_ok=True)
        return place


def _shown(source: Source) -> str:
    return source.url or source.file or f"{source.datastore}/{source.path}"

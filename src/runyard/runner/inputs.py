"""Binds a run's data: a link where they lie on this disk already, a copy or a checked download elsewhere."""

import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from runyard.client.http import Server
from runyard.client.transfer import receive_file
from runyard.errors import UserErrorException
from runyard.files.datastores import FolderDatastore
from runyard.files.fetch import fetch
from runyard.files.inside import join_inside
from runyard.files.listing import list_source
from runyard.protocol.datasets import Source
from runyard.protocol.mounts import layout_of, url_path
from runyard.protocol.plan import InputPlan
from runyard.protocol.runs import InputMode
from runyard.protocol.selection import select
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

    def make(self) -> str:
        asked = self._asked
        if asked.is_reference and asked.mode == InputMode.MOUNT and self._is_here(asked.sources[0]):
            return str(self._reference(asked.sources[0]))
        self._root = self._target()
        self._root.mkdir(parents=True, exist_ok=True)
        found = self._distinct_files()
        kept = select([relative for _, _, relative in found], asked.steps)
        for place in kept:
            self._bring(*found[place])
        if not kept and not asked.is_reference:
            sought = ", ".join(map(_shown, asked.sources))
            raise UserErrorException(f"Input {asked.name!r} is empty: nothing matches {sought}.")
        return str(self._root)

    def _distinct_files(self) -> List[Tuple[Source, str, str]]:
        """(source, where it is, path below the mount) of each file; one that two sources hold comes once."""
        found: List[Tuple[Source, str, str]] = []
        placed: Dict[str, str] = {}
        for source in self._asked.sources:
            for origin, relative in self._files(source):
                known = f"{source.datastore}/{origin}" if source.is_remote else origin
                other = placed.get(relative)
                if other is None:
                    placed[relative] = known
                    found.append((source, origin, relative))
                elif other != known:
                    raise UserErrorException(
                        f"Input {self._asked.name!r}: {other} and {known} have one path, {relative!r}; "
                        "rename one of them."
                    )
        return found

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
        root = self._folder.datastore_root(source)
        clean = source.path.strip("/")
        target = join_inside(root, check_path(clean)) if clean else root
        if not target.exists():
            target.mkdir(parents=True, exist_ok=True)
        return target

    def _files(self, source: Source) -> List[Tuple[str, str]]:
        """(where it is, path below the mount) of each file of a source."""
        if source.url is not None:
            # A URL keeps its host and path below the mount, as v1's did.
            return [(source.url, check_path(url_path(source.url)))]
        if source.file is None and not self._is_here(source):
            names = {**self._names, "name": source.datastore}
            files = [
                one.path for one in self._server.call("list_datastore_files", query={"path": source.path}, **names)
            ]
            base = self._layout.datastore_base(source.path, files)
            return [(path, os.path.relpath(path, base or ".")) for path in files]
        return [(os.path.realpath(path), relative) for path, relative in self._local_files(source)]

    def _bring(self, source: Source, origin: str, relative: str) -> None:
        place = self._place(origin, relative)
        if source.url is not None:
            self._say(f"Downloading {origin}")
            fetch(origin, str(place), allow_private=self._folder.plan.allow_private_urls)
        elif source.file is None and not self._is_here(source):
            # Files of a datastore that lies on the server's disk and not on this one, or in a bucket.
            self._say(f"Downloading {origin} from {source.datastore}")
            names = {**self._names, "name": source.datastore}
            receive_file(self._server.stream("read_datastore_file", path=origin, **names), str(place))
        elif self._asked.mode == InputMode.MOUNT:
            os.symlink(origin, str(place))
        else:
            shutil.copyfile(origin, str(place))

    def _local_files(self, source: Source) -> List[Tuple[str, str]]:
        """(absolute path, path below the mount) of a source's files on this disk."""
        if source.file is not None:
            return list_source(source.file, self._layout.local_base)
        root = self._folder.datastore_root(source)
        paths = [one.path for one in FolderDatastore(root, is_own=source.root is None).list(source.path)]
        base = self._layout.datastore_base(source.path, paths)
        return [(str(root / path), os.path.relpath(path, base or ".")) for path in paths]

    def _place(self, origin: str, relative: str) -> Path:
        """Where a file goes: never where the source folder has one already."""
        parent = join_inside(self._root, os.path.dirname(relative))
        place = parent / os.path.basename(relative)
        if os.path.lexists(str(place)):
            raise UserErrorException(
                f"Input {self._asked.name!r}: a file of the source folder and {origin} have one path, {relative!r}; "
                "rename one of them."
            )
        parent.mkdir(parents=True, exist_ok=True)
        return place


def _shown(source: Source) -> str:
    return source.url or source.file or f"{source.datastore}/{source.path}"

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
from runyard.protocol.mounts import mount_base, url_path
from runyard.protocol.plan import InputPlan, Source
from runyard.protocol.runs import InputMode
from runyard.protocol.trees import check_path
from runyard.runner.folder import AttemptFolder

Say = Callable[[str], None]


def bind_inputs(folder: AttemptFolder, server: Server, say: Say) -> Dict[str, str]:
    """Make every input of the plan readable here; returns the path of each, by name.

    UserErrorException names the input and the file that is missing or cannot be had.
    """
    return {one.name: _bind(folder, server, one, say) for one in folder.plan.inputs if one.mode != InputMode.DIRECT}


def _bind(folder: AttemptFolder, server: Server, asked: InputPlan, say: Say) -> str:
    target = _target(folder, asked)
    if asked.is_reference and asked.mode == InputMode.MOUNT and folder.facts.datastores_folder:
        return str(_reference(folder, asked.sources[0]))
    target.mkdir(parents=True, exist_ok=True)
    is_alone = len(asked.sources) == 1
    count = sum(_bind_source(folder, server, asked, source, target, is_alone, say) for source in asked.sources)
    if count == 0 and not asked.is_reference:
        raise UserErrorException(
            "Input {!r} is empty: nothing matches {}.".format(asked.name, ", ".join(map(_name, asked.sources)))
        )
    return str(target)


def _target(folder: AttemptFolder, asked: InputPlan) -> Path:
    if asked.path_on_compute is None:
        return folder.inputs / asked.name
    wanted = Path(asked.path_on_compute)
    if wanted.is_absolute():
        # v1 scripts name paths like /tmp/data; on a shared host they get a place of their own with that tail.
        return folder.inputs / asked.name / wanted.relative_to("/")
    return join_inside(folder.work, check_path(str(wanted)))


def _reference(folder: AttemptFolder, source: Source) -> Path:
    root = _datastore_root(folder, source)
    clean = source.path.strip("/")
    target = join_inside(root, check_path(clean)) if clean else root
    if not target.exists():
        target.mkdir(parents=True, exist_ok=True)
    return target


def _bind_source(
    folder: AttemptFolder, server: Server, asked: InputPlan, source: Source, target: Path, is_alone: bool, say: Say
) -> int:
    if source.url is not None:
        return _download(folder, source.url, target, say)
    if source.file is None and folder.facts.datastores_folder is None:
        return _receive(folder, server, source, target, is_alone, say)
    found = _local_files(folder, source, is_alone)
    for path, relative in found:
        _place(path, join_inside(target, relative), is_link=asked.mode == InputMode.MOUNT)
    return len(found)


def _download(folder: AttemptFolder, url: str, target: Path, say: Say) -> int:
    """A URL keeps its host and path below the mount, as v1's did."""
    place = join_inside(target, check_path(url_path(url)))
    place.parent.mkdir(parents=True, exist_ok=True)
    say(f"Downloading {url}")
    fetch(url, str(place), allow_private=folder.plan.allow_private_urls)
    return 1


def _receive(folder: AttemptFolder, server: Server, source: Source, target: Path, is_alone: bool, say: Say) -> int:
    """Files of a datastore that lies on the server's disk and not on this one."""
    names: Dict[str, Any] = {"workspace": folder.plan.workspace, "name": source.datastore}
    files = server.call("list_datastore_files", query={"path": source.path}, **names)
    base = mount_base(source.path, [one.path for one in files]) if is_alone else ""
    for one in files:
        say(f"Downloading {one.path} from {source.datastore}")
        pieces = server.stream("read_datastore_file", path=one.path, **names)
        receive_file(pieces, str(join_inside(target, os.path.relpath(one.path, base or "."))))
    return len(files)


def _local_files(folder: AttemptFolder, source: Source, is_alone: bool) -> List[Tuple[str, str]]:
    """(absolute path, path below the mount) of a source's files on this disk."""
    if source.file is not None:
        return list_source(source.file)
    root = _datastore_root(folder, source)
    paths = [one.path for one in FolderDatastore(root).list(source.path)]
    base = mount_base(source.path, paths) if is_alone else ""
    return [(str(root / path), os.path.relpath(path, base or ".")) for path in paths]


def _datastore_root(folder: AttemptFolder, source: Source) -> Path:
    root = Path(folder.facts.datastores_folder or "") / folder.plan.workspace / str(source.datastore)
    return root


def _place(source: str, target: Path, is_link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_link:
        os.symlink(os.path.realpath(source), str(target))
    else:
        shutil.copyfile(source, str(target))


def _name(source: Source) -> str:
    return source.url or source.file or f"{source.datastore}/{source.path}"

"""What of the node a script in a container or a sandbox has: its own folders, its data, its kit."""

import os
from typing import Dict, Iterable, List, Sequence, Set

from runyard.environments.kit import Kit
from runyard.errors import AzureMLException
from runyard.protocol.record import record
from runyard.runner.folder import AttemptFolder

#: Of the run's own folder, beside its data: what it writes, and what only its runner does. Logs of the runner, its
#: reports and its identity are not there at all.
_WRITTEN, _READ = ("processes", "launches"), ("ranks", "bin")
#: Folders that links lead to; beyond this, what holds them all is bound.
FOLDERS_MAX = 64


@record
class BoundFolder:
    """A folder of the node that the script has under the same path."""

    path: str
    is_read_only: bool


def run_folders(folder: AttemptFolder) -> List[BoundFolder]:
    """Those of its run that it has beside its data, as far as they are there: MPI makes some just before its start."""
    found = [BoundFolder(str(folder.path / name), name in _READ) for name in (*_WRITTEN, *_READ)]
    return [one for one in found if os.path.isdir(one.path)]


def bound_folders(folder: AttemptFolder, kit: Kit, data: Dict[str, str]) -> List[BoundFolder]:
    """The run's own folders, its kit and its data; ``data``: the paths of inputs and outputs by name."""
    own = [str(one) for one in (folder.work, folder.spool, folder.inputs, folder.path / "tmp")]
    found = [BoundFolder(one, False) for one in own] + [BoundFolder(kit.folder, True)]
    # A reference to a datastore is its folder itself, to be read and written as in v1.
    beyond = [path for path in data.values() if not _is_below(path, own)]
    found += [BoundFolder(path, False) for path in _outermost(beyond)]
    linked = _outermost(_link_targets(one for one in data.values() if one not in beyond))
    return found + [BoundFolder(path, True) for path in linked if not _is_below(path, own + beyond)]


def _link_targets(folders: Iterable[str]) -> Set[str]:
    """The folders that hold what links below ``folders`` lead to."""
    found: Set[str] = set()
    for root in folders:
        for parent, names, files in os.walk(root):
            for name in (*names, *files):
                path = os.path.join(parent, name)
                if os.path.islink(path):
                    found.add(os.path.dirname(os.path.realpath(path)))
    return found


def _outermost(paths: Iterable[str]) -> List[str]:
    """Without those that lie in another one; where they are many, the one that holds them all."""
    kept: List[str] = []
    for path in sorted(set(paths)):
        if not _is_below(path, kept):
            kept.append(path)
    if len(kept) <= FOLDERS_MAX:
        return kept
    common = os.path.commonpath(kept)
    if common == "/":
        raise AzureMLException(f"An input's files lie in {len(kept)} folders all over the disk; mount fewer of them.")
    return [common]


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip("/") + "/") for one in folders)

"""Brings ./outputs, ./logs and the script's log into the run's record: stored, verified, then recorded."""

import os
import re
import time
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

from runyard.client.http import Server
from runyard.client.transfer import send_blobs, send_bytes
from runyard.errors import UserErrorException
from runyard.files.blobs import PACKED_BELOW, BlobStore
from runyard.files.hashing import hash_file
from runyard.files.inside import join_inside
from runyard.files.tails import is_regular
from runyard.protocol.runs import Artifact, ArtifactList
from runyard.protocol.trees import PATH_MAX, check_path
from runyard.runner.folder import AttemptFolder
from runyard.runner.live import opened_files
from runyard.runner.regular import record_name, regular_files

#: The script's log under its present name and under the one of older generations.
STD_LOG, DRIVER_LOG = "user_logs/std_log.txt", "azureml-logs/70_driver_log.txt"
#: The same of another node than the first.
NODE_LOG = "system_logs/node_{}.txt"
#: What a node has recorded whose name was taken: node_1/, or node_1-2/ and so on where that one was taken too.
_ASIDE = re.compile(r"outputs/node_(\d+)(?:-([2-9]|[1-9]\d+))?/")
#: Folders of the working folder that belong to the record.
RECORDED = ("outputs", "logs")
#: Most artifacts in one request.
BATCH = 2_000
#: A record up to this size and count of files is stored within some milliseconds.
SMALL_BYTES, SMALL_COUNT = 1 << 20, 20
#: Most files of a running script in one request; small ones are held in memory until then.
LIVE_BATCH = 100
#: A file that changed within this time is still being written; it is left for later, nanoseconds.
QUIET_NS = 2 * 10**9


class _Changed:
    """Some files that a script has finished writing, on their way to the record."""

    def __init__(self) -> None:
        #: Contents that are stored together.
        self.small: Dict[str, bytes] = {}
        self.artifacts: List[Artifact] = []
        self.marks: Dict[str, Tuple[int, int]] = {}


class Outputs:
    """The record of one attempt."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._store: Optional[BlobStore] = folder.store()
        self._root = os.path.realpath(str(folder.work))
        name = NODE_LOG.format(folder.node) if folder.node else STD_LOG
        #: (name in the record, path) of the node's log, and of what each single process of a distributed run says.
        self._log = name, str(folder.log)
        self._process_logs = [(one.log_name, str(folder.process_log(one))) for one in folder.tasks]
        #: Of the first node, whose files have their own names; those of another one may be taken.
        self._is_first = folder.node == 0
        #: A file of another user stays that user's, who may have it open somewhere; so the store gets a copy.
        self._may_move = not folder.has_user
        self._seen: Dict[str, Tuple[int, int]] = {}
        #: Digests of what an earlier attempt had written, by name.
        self._restored: Dict[str, str] = {}
        #: Where the record has it, by name.
        self._origins: Dict[str, str] = {}
        #: What was left out, and why; each once.
        self.notices: Dict[str, None] = {}

    def restore(self) -> int:
        """Put what an earlier attempt has left in ./outputs there again; returns how many files.

        A node that has files of its own under its number finds them under their first names; of others' it has none.
        """
        plan = self._folder.plan
        names: Dict[str, Any] = {"workspace": plan.workspace, "run_id": plan.run_id}
        found = self._wanted(self._server.call("list_artifacts", None, {"prefix": "outputs/"}, **names))
        for name, one in found.items():
            target = join_inside(self._folder.work, check_path(name))
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._store is not None and self._store.has([one.digest]):
                self._store.copy_to(one.digest, target, False)
            else:
                _write(target, self._server.stream("read_artifact", path=one.path, **names))
            self._restored[name], self._origins[name] = one.digest, one.path
        return len(found)

    def _wanted(self, recorded: List[Artifact]) -> Dict[str, Artifact]:
        """What is put where: this node's own before the first one's, and no file where another needs a folder."""
        names = {one.path for one in recorded}
        wanted: Dict[str, Artifact] = {}
        folders: Set[str] = set()
        for one in sorted(recorded, key=lambda one: (len(self._places_of(one.path, names)), one.path), reverse=True):
            for name in self._places_of(one.path, names):
                above = {str(parent) for parent in PurePosixPath(name).parents}
                if name not in wanted and name not in folders and not above & wanted.keys():
                    wanted[name] = one
                    folders |= above
        return wanted

    def _places_of(self, path: str, names: Set[str]) -> Tuple[str, ...]:
        """The names under which a recorded file is put back here; none: it is another node's, two: it may be ours."""
        found = _ASIDE.match(path)
        if found is None or self._folder.plan.node_count == 1:
            return (path,)
        node, number, rest = int(found[1]), int(found[2] or 1), path[found.end() :]
        is_taken = "outputs/" + rest in names and all(
            _aside("outputs", node, one, rest) in names for one in range(1, number)
        )
        if not is_taken or _aside("outputs", node, number + 1, rest) in names:
            # A script's own name: those before it were free, or what was put aside went further.
            return (path,)
        if node != self._folder.node or self._is_first:
            return ()
        # The script may have named the folder so itself, and looks for it there.
        return ("outputs/" + rest, path)

    def is_small(self) -> bool:
        """Will the record be stored so soon that the script's end need not be told before?"""
        size = count = 0
        for _, path in self._files():
            size, count = size + os.stat(path).st_size, count + 1
            if size > SMALL_BYTES or count > SMALL_COUNT:
                return False
        return True

    def ship_changed(self) -> int:
        """While the script runs: store what it has finished writing; returns how many files.

        What other nodes write waits for the end, since the first one's files come first; so do links.
        """
        if not self._is_first:
            return 0
        quiet_before = time.time_ns() - QUIET_NS
        some, count = _Changed(), 0
        for name, handle in self._opened(*RECORDED):
            seen = os.fstat(handle)
            mark = (seen.st_size, seen.st_mtime_ns)
            if self._seen.get(name) == mark or seen.st_mtime_ns >= quiet_before:
                continue
            some.marks[name] = mark
            if seen.st_size < PACKED_BELOW:
                some.small[name] = os.pread(handle, PACKED_BELOW, 0)
            else:
                some.artifacts.append(Artifact(name, *self._put_opened(handle)))
            count += 1
            if len(some.marks) >= LIVE_BATCH:
                self._record_changed(some)
                some = _Changed()
        self._record_changed(some)
        return count

    def _record_changed(self, some: "_Changed") -> None:
        if some.small:
            contents = list(some.small.values())
            if self._store is not None:
                digests = self._store.put_many(contents)
            else:
                digests = send_bytes(self._server, self._folder.plan.workspace, contents)
            found = zip(some.small, digests, contents)
            some.artifacts += [Artifact(name, digest, len(data)) for name, digest, data in found]
        self._send(some.artifacts)
        self._seen.update(some.marks)

    def _put_opened(self, handle: int) -> Tuple[str, int]:
        """(digest, size) of an open file once its blob is safe, whatever its script does with it meanwhile."""
        if self._store is not None:
            with open(handle, "rb", closefd=False) as file:
                return self._store.put_opened(file)
        # The server takes nothing under another digest than its own.
        found = hash_file(f"/proc/self/fd/{handle}")
        send_blobs(self._server, self._folder.plan.workspace, {found[0]: f"/proc/self/fd/{handle}"})
        return found

    def logs(self) -> Iterator[Tuple[str, int]]:
        """(name in the record, descriptor) of each log that the script writes; of other nodes only at the end."""
        return self._opened("logs") if self._is_first else iter(())

    def _opened(self, *tops: str) -> Iterator[Tuple[str, int]]:
        for path, handle in opened_files(self._root, *tops):
            name = record_name(path)
            if self._is_allowed(name):
                yield name, handle

    def store_files(self) -> Tuple[Artifact, ...]:
        """After the last process ended: store every file; returns what is not recorded yet, for the last report."""
        found = list(self._files())
        if not self._is_first:
            self._record_beside(found)
            return ()
        # Other nodes look at what is recorded before they record their own.
        if len(found) <= SMALL_COUNT and self._folder.plan.node_count == 1:
            return tuple(self._store_some(found, move=self._may_move))
        self._record(found, move=self._may_move)
        return ()

    def own_logs(self) -> List[Tuple[str, str]]:
        """(name in the record, path) of the log, and of each single process of a distributed run."""
        return [self._log, *(one for one in self._process_logs if is_regular(one[1]))]

    def store_log(self) -> Tuple[Artifact, ...]:
        """Store the script's log, under both of its names, and those of single processes."""
        logs = self.own_logs()
        stored = self._put([path for _, path in logs], move=False)
        artifacts = [Artifact(name, *found) for (name, _), found in zip(logs, stored)]
        if not self._is_first:
            self._send(artifacts)
            return ()
        return (*artifacts, Artifact(DRIVER_LOG, *stored[0]))

    def _record_beside(self, files: List[Tuple[str, str]]) -> None:
        """Record another node's files: one whose name has another content already goes below a folder of the node.

        The nodes do this one after the other, so that a name is always the lowest node's that wrote it.
        """
        plan = self._folder.plan
        recorded = self._server.call("list_artifacts", workspace=plan.workspace, run_id=plan.run_id)
        taken = {one.path: one.digest for one in recorded}
        changed: List[Artifact] = []
        for start in range(0, len(files), BATCH):
            found = self._store_some(files[start : start + BATCH], move=False)
            # What is as an earlier attempt left it is in the record.
            changed += [one for one in found if self._restored.get(one.path) != one.digest]
        own = {one.path for one in changed}
        named = [replace(one, path=self._name_for(one, taken, own)) for one in changed]
        for start in range(0, len(named), BATCH):
            self._send(named[start : start + BATCH])

    def _name_for(self, one: Artifact, taken: Dict[str, str], own: Set[str]) -> str:
        """Under which name a file is recorded: its own, or the first beside it that no other file has.

        ``taken``: what is recorded; ``own``: what this node records.
        """
        before = self._restored.get(one.path)
        if taken.get(one.path) in (None, one.digest, before):
            return one.path
        origin = self._origins.get(one.path)
        if origin is not None and origin not in own and taken.get(origin) in (one.digest, before):
            return origin
        top, _, rest = one.path.partition("/")
        for number in count(1):
            name = _aside(top, self._folder.node, number, rest)
            if name not in own and name not in self._restored and taken.get(name) in (None, one.digest):
                break
        if number > 1:
            node = self._folder.node
            self.notices[f"{one.path!r} of node {node} is in the record as {name!r}: other files have its names."] = (
                None
            )
        return name

    def _files(self, *tops: str) -> Iterator[Tuple[str, str]]:
        """(name in the record, path) of each regular file; what the record cannot hold is left out and said."""
        for top in tops or RECORDED:
            for path in regular_files(os.path.join(self._root, top), self._root, self.notices):
                recorded = record_name(os.path.relpath(path, self._root))
                if self._is_allowed(recorded):
                    yield recorded, path

    def _is_allowed(self, name: str) -> bool:
        try:
            check_path(name)
        except UserErrorException as error:
            self.notices[str(error)] = None
            return False
        return True

    def _record(self, files: List[Tuple[str, str]], move: bool) -> None:
        for start in range(0, len(files), BATCH):
            self._send(self._store_some(files[start : start + BATCH], move))

    def _store_some(self, files: List[Tuple[str, str]], move: bool) -> List[Artifact]:
        # A link's target may be recorded under its own name too, so a link is never moved away from it.
        stored = self._put([path for _, path in files], move=move and not any(os.path.islink(p) for _, p in files))
        return [Artifact(name, *found) for (name, _), found in zip(files, stored)]

    def _put(self, paths: List[str], move: bool) -> List[Tuple[str, int]]:
        """(digest, size) of each file, once its blob is safe in the store."""
        if self._store is not None:
            return [(one.digest, one.size_bytes) for one in self._store.put_files([Path(p) for p in paths], move=move)]
        found = [hash_file(path) for path in paths]
        send_blobs(self._server, self._folder.plan.workspace, {d: p for (d, _), p in zip(found, paths)})
        return found

    def _send(self, artifacts: List[Artifact]) -> None:
        if artifacts:
            plan = self._folder.plan
            body = ArtifactList(tuple(artifacts))
            self._server.call("add_artifacts", body, workspace=plan.workspace, run_id=plan.run_id)


def _aside(top: str, node: int, number: int, rest: str) -> str:
    """``outputs/model.h5`` as ``outputs/node_1/model.h5``; where that is taken, as ``outputs/node_1-2/model.h5``."""
    folder = f"{top}/node_{node}" if number == 1 else f"{top}/node_{node}-{number}"
    found = f"{folder}/{rest}"
    # A path that is too long by that ends in a digest of itself.
    return found if len(found) <= PATH_MAX else f"{folder}/{sha256(f'{top}/{rest}'.encode()).hexdigest()}"


def _write(target: Path, pieces: Iterable[bytes]) -> None:
    with open(str(target), "wb") as file:
        for piece in pieces:
            file.write(piece)

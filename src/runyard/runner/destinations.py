"""The folders that a run's outputs are written to, and the way from there to their datastores."""

import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

from runyard.client.http import Server
from runyard.client.transfer import FileBody
from runyard.errors import (
    AuthenticationException,
    AzureMLException,
    ConflictError,
    RunyardError,
    ServerUnreachableError,
    ServiceException,
    StorageFullError,
    UserErrorException,
)
from runyard.files.datastores import FolderDatastore
from runyard.files.hashing import hash_file
from runyard.files.inside import join_inside
from runyard.files.layout import DISK_FULL
from runyard.protocol.datastores import DatastoreFile, left_out_sentence
from runyard.protocol.digests import Hasher
from runyard.protocol.outputs import OutputMode, OutputPlan
from runyard.protocol.plan import ExitCause, Report
from runyard.protocol.trees import check_path
from runyard.protocol.words import counted, is_or_are
from runyard.runner.folder import AttemptFolder
from runyard.runner.regular import record_name, regular_files
from runyard.runner.warn import warn

#: Files of one output that are on their way at once.
AT_ONCE = 4
#: Read size, bytes.
PIECE_BYTES = 1 << 20
#: How long a service that does not answer is asked again, seconds.
PATIENCE_S = 900.0

#: Where outputs were when nothing of the script ran yet.
PLACES = "places.json"
#: A pattern's wildcards, and what they stand for: '**/' spans folders, '*' and '?' stay in one.
_WILDCARDS = re.compile(r"\*\*/|\*\*|\*|\?")
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


class Destinations:
    """Where one attempt's outputs go."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._stored: Set[str] = set()
        #: (output, path) of each file that is there; what breaks off goes on behind them.
        self._sent: Set[Tuple[str, str]] = set()
        self._failing_since: Dict[str, float] = {}
        #: What was left out, and what went where; each once.
        self.notices: Dict[str, None] = {}
        #: Why an output is not where it should be, for each that is not and never will be.
        self.failures: List[str] = []
        #: How far it is, in one sentence.
        self.progress = ""

    def make(self) -> Dict[str, str]:
        """Make the folder of each output; returns them by name."""
        found = {}
        for output in self._folder.plan.outputs:
            folder = self._place(output)
            if self._is_elsewhere(output) and self._folder.is_servers(str(folder)):
                raise UserErrorException(f"Output {output.name!r}: {str(folder)!r} is the server's own, or around it.")
            try:
                if not self._is_elsewhere(output) or not self._folder.has_user:
                    folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserErrorException(
                    f"Output {output.name!r}: its folder {str(folder)!r} cannot be made: {error.strerror}."
                ) from None
            found[output.name] = str(folder)
        places = {one.name: os.path.realpath(found[one.name]) for one in self._folder.plan.outputs}
        (self._folder.path / PLACES).write_text(json.dumps(places))
        return found

    def has_any(self) -> bool:
        """Is there something to store when the script has ended?"""
        return any(not self._is_direct(output) for output in self._folder.plan.outputs)

    def store(self, exited: Report) -> None:
        """Store what the script has written; what it wrote to a datastore's own folder is there already.

        Called again after a failure, it goes on with the output that failed.
        """
        has_succeeded = exited.cause == ExitCause.SCRIPT and exited.exit_code == 0
        for output in self._folder.plan.outputs:
            if output.name in self._stored:
                continue
            if self._is_direct(output):
                if has_succeeded:
                    self._check(output)
            elif output.mode == OutputMode.MOUNT or has_succeeded:
                self._try(output)
            else:
                self.notices[f"Output {output.name!r} was not uploaded, since the script did not succeed."] = None
            self._stored.add(output.name)

    def _place(self, output: OutputPlan) -> Path:
        """The folder that the script writes."""
        if output.source is not None:
            # An absolute one is where the script writes whatever it is told.
            is_absolute = self._is_elsewhere(output)
            return Path(output.source) if is_absolute else join_inside(self._folder.work, check_path(output.source))
        return self._target(output) if self._is_direct(output) else self._folder.outputs / output.name

    def _is_elsewhere(self, output: OutputPlan) -> bool:
        """Is its folder anywhere on the disk?"""
        return output.source is not None and os.path.isabs(output.source)

    def _is_direct(self, output: OutputPlan) -> bool:
        """Does the script write into the datastore's own folder?"""
        # Under a user of its own it may not: that is the server's user's.
        is_asked = output.mode == OutputMode.MOUNT and output.source is None
        return is_asked and self._is_here(output) and not self._folder.has_user

    def _is_here(self, output: OutputPlan) -> bool:
        return not output.target.is_remote and self._folder.facts.datastores_folder is not None

    def _target(self, output: OutputPlan) -> Path:
        root = self._folder.datastore_root(output.target)
        return join_inside(root, check_path(output.target.path)) if output.target.path else root

    def _check(self, output: OutputPlan) -> None:
        """Note a datastore's folder that the script has removed, or led elsewhere: no dataset of it could be read."""
        try:
            if not self._target(output).is_dir():
                self.failures.append(f"The folder of output {output.name!r} is gone: the script has removed it.")
                return
        except RunyardError as error:
            self.failures.append(f"Output {output.name!r}: {error}")
            return
        sentence = self._left_out(output)
        if sentence:
            warn(self._folder, self._server, f"Output {output.name!r}: {sentence}")

    def _left_out(self, output: OutputPlan) -> str:
        """What of a datastore's folder no dataset can name; '' for nothing."""
        notices: Dict[str, None] = {}
        store = FolderDatastore(self._folder.datastore_root(output.target), is_own=output.target.root is None)
        try:
            store.list(output.target.path, notices)
        except RunyardError as error:
            return str(error)
        return left_out_sentence(output.target.datastore or "", len(notices), notices)

    def _try(self, output: OutputPlan) -> None:
        """Store it, or note why that cannot be: the others, and the rest of the run's record, are stored all the same.

        What may be well later is raised; so is what says that this attempt is over.
        """
        try:
            self._insist(output)
        except (ServiceException, AuthenticationException):
            raise
        except (RunyardError, OSError) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise
            self.failures.append(str(error))

    def _insist(self, output: OutputPlan) -> None:
        """Store it; a service that does not answer is asked for some time, our own server by the caller."""
        try:
            self._store(output)
        except (ServerUnreachableError, StorageFullError):
            raise
        except ServiceException as error:
            self.progress = f"Output {output.name!r} waits: {error}"
            since = self._failing_since.setdefault(output.name, time.monotonic())
            if time.monotonic() - since > PATIENCE_S:
                raise AzureMLException(str(error)) from None
            raise

    def _store(self, output: OutputPlan) -> None:
        files = self._files(output)
        shown = f"{output.target.datastore}/{output.target.path}"
        total, done = sum(os.path.getsize(path) for _, path in files), 0
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda found: self._send(output, *found), files):
                done += 1
                there = f"{done} of {counted(len(files), 'file')} {is_or_are(done)} there"
                self.progress = f"Output {output.name!r} goes to {shown}: {there}."
        what = f"{counted(len(files), 'file')}, {counted(total, 'byte')}, {is_or_are(len(files))}"
        self.notices[f"Output {output.name!r}: {what} in {shown}."] = None

    def _files(self, output: OutputPlan) -> List[Tuple[str, str]]:
        """(path below the target, path here) of each file that is to be stored."""
        top = os.path.realpath(str(self._place(output)))
        if not os.path.isdir(top):
            raise AzureMLException(f"The folder of output {output.name!r} is gone: the script has removed {top!r}.")
        if self._folder.is_apart and top != self._places().get(output.name, top):
            # What a job apart may not read, its runner may.
            raise AzureMLException(f"The folder of output {output.name!r} leads elsewhere now, to {top!r}.")
        found = []
        for path in regular_files(top, top, self.notices):
            below = os.path.relpath(path, top)
            if not output.globs or any(_matches(below, pattern) for pattern in output.globs):
                try:
                    found.append((check_path(record_name(below)), path))
                except UserErrorException as error:
                    self.notices[f"Output {output.name!r}: a file was left out: {error}"] = None
        return found

    def _places(self) -> Dict[str, str]:
        try:
            found: Dict[str, str] = json.loads((self._folder.path / PLACES).read_text())
        except FileNotFoundError:
            return {}
        return found

    def _send(self, output: OutputPlan, name: str, path: str) -> None:
        if (output.name, name) in self._sent:
            return
        size = os.path.getsize(path)
        try:
            stored = self._write(output, name, path)
        except ConflictError as error:
            # A try before this one, or a runner before this, may have stored it without learning of it.
            if not self._is_there(output, name, path):
                raise AzureMLException(f"Output {output.name!r}: {error}") from None
            self._sent.add((output.name, name))
            return
        if stored.size_bytes != size:
            raise AzureMLException(
                f"{name!r} of output {output.name!r} has {size} bytes and arrived with {stored.size_bytes}: "
                "it changed while it was being stored."
            )
        self._sent.add((output.name, name))

    def _is_there(self, output: OutputPlan, name: str, path: str) -> bool:
        """Does the datastore have that very file?"""
        hasher, below = Hasher(), _below(output, name)
        if self._is_here(output):
            root = self._folder.datastore_root(output.target)
            file, _ = FolderDatastore(root, is_own=output.target.root is None).open(below)
            with file:
                for piece in iter(lambda: file.read(PIECE_BYTES), b""):
                    hasher.update(piece)
        else:
            names: Dict[str, Any] = {
                "workspace": self._folder.plan.workspace,
                "name": output.target.datastore or "",
                "path": below,
            }
            for piece in self._server.stream("read_datastore_file", **names):
                hasher.update(piece)
        return hasher.digest() == hash_file(path)[0]

    def _write(self, output: OutputPlan, name: str, path: str) -> DatastoreFile:
        if self._is_here(output):
            root = self._folder.datastore_root(output.target)
            below = _below(output, name)
            store = FolderDatastore(root, is_own=output.target.root is None)
            with open(path, "rb") as file:
                return store.write(below, file, output.overwrite)
        plan = self._folder.plan
        found: DatastoreFile = self._server.call(
            "write_output_file",
            FileBody(path),
            workspace=plan.workspace,
            run_id=plan.run_id,
            name=output.name,
            path=name,
        )
        return found


def _below(output: OutputPlan, name: str) -> str:
    """A file's path in the datastore."""
    return "/".join(part for part in (output.target.path, name) if part)


def _matches(path: str, pattern: str) -> bool:
    parts, at = [], 0
    for found in _WILDCARDS.finditer(pattern):
        parts += [re.escape(pattern[at : found.start()]), _MEANINGS[found.group(0)]]
        at = found.end()
    return re.fullmatch("".join(parts) + re.escape(pattern[at:]), path, re.DOTALL) is not None

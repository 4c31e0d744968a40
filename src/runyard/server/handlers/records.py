"""What runs leave behind: reports, logs, metrics, artifacts; and the blobs that all of it is made of."""

import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO, List, Optional, Sequence, Tuple

from sqlalchemy import Row

from runyard.control.run_logs import attempt_of_logs
from runyard.db import metrics, runs
from runyard.errors import ConflictError, NotFoundError, StorageFullError, UserErrorException
from runyard.files.inside import join_inside
from runyard.files.layout import DISK_FULL, folder_name
from runyard.protocol.attempt_logs import OWN_LOGS, is_of_earlier_attempt
from runyard.protocol.blobs import BlobAddress, DigestList, Offset, PartList, SignedPart, Upload, UploadSpec
from runyard.protocol.bundles import join_bundle, split_bundle
from runyard.protocol.datastores import DatastoreFile
from runyard.protocol.digests import check_digest
from runyard.protocol.identity import PrincipalKind
from runyard.protocol.metrics import MetricsReply, decode_batch, encode_read
from runyard.protocol.plan import ReportBatch, ReportReply
from runyard.protocol.runs import TERMINAL, Artifact, ArtifactList, Count
from runyard.protocol.trees import check_path, decode_tree
from runyard.server.call import Call, Content
from runyard.server.contents import check_contents
from runyard.server.storage_work import in_store_thread
from runyard.server.threads import in_thread
from runyard.server.waiting import wait_until

#: Longest wait of one request for more of a log, seconds; most bytes in one reply.
WAIT_MAX_S, READ_MAX = 60, 4 << 20
#: Largest log that is kept while it grows, bytes; what comes later is cut, and said in the log.
LOG_MAX = 1 << 30
#: Most parts that are signed at once, and bytes of contents in one bundle.
SIGNED_MAX, BUNDLE_MAX = 200, 8 << 20
LOG_CUT = b"\n[Runyard: this log is too long to be shown while it grows; the rest is here once the run has ended.]\n"


async def report(call: Call) -> ReportReply:
    """A runner's reports: kept, and what they change carried out, before they are acknowledged."""
    batch: ReportBatch = call.body
    artifacts = [artifact for one in batch.reports for artifact in one.artifacts]
    if artifacts:
        await in_thread(check_contents, call.parts.store, artifacts)
    return await call.parts.loop.take_reports(call.workspace, call.path["run_id"], batch)


def append_log(call: Call) -> Offset:
    """Bytes of a growing log. A part that is here already is passed over; a gap is answered with what is here."""
    run = _present_run(call)
    if call.integer("attempt", run.attempt) != run.attempt:
        raise _over(run.id, call.integer("attempt", 0))
    path = _log_path(call)
    offset = call.integer("offset", 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            # A part may arrive twice at once: its sender repeats what was not answered.
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            if offset <= size <= LOG_MAX and size < offset + len(call.body):
                size += _write_log(file, size, call.body[size - offset :])
    except OSError as error:
        raise _disk_error(error, "the log") from None
    call.parts.events.notify(call.path["run_id"])
    return Offset(offset + len(call.body) if size > LOG_MAX else size)


def _write_log(file: BinaryIO, size: int, data: bytes) -> int:
    """Add to a log of that size, or end it: longer than ``LOG_MAX`` is only one that says that it was cut."""
    if size + len(data) > LOG_MAX:
        data = data[: LOG_MAX - size] + LOG_CUT
    file.write(data)
    return len(data)


def list_logs(call: Call) -> List[DatastoreFile]:
    """The run's logs, by name: those that still grow and those that are stored."""
    run = _present_run(call)
    with call.parts.database.read() as connection:
        stored = runs.list_logs(connection, run.id)
    found = {one.path: DatastoreFile(one.path, one.size_bytes, run.ended_at or 0) for one in stored}
    root = call.parts.logs_folder / folder_name(run.id)
    for parent, _, names in os.walk(root):
        for name in names:
            path = Path(parent) / name
            shown = path.relative_to(root).as_posix()
            found.setdefault(shown, DatastoreFile(shown, path.stat().st_size, path.stat().st_mtime_ns // 1000))
    return [found[name] for name in sorted(found)]


async def read_log(call: Call) -> Content:
    """A log's bytes from ``offset``; with ``wait_s``, as soon as there are more or the log is complete.

    The header X-Log-Complete is 1 once nothing will be added, and X-Log-Attempt says of which attempt they are, where
    each has a log of its own. For another ``attempt`` than that there are none. Async, since it waits.
    """
    wait_s = call.integer("wait_s", 0, 0, WAIT_MAX_S)
    await wait_until(call, _look_at_log, wait_s)
    return await in_store_thread(call.parts.store, _read_log, call)


def _look_at_log(call: Call) -> Tuple[None, bool]:
    size, is_complete = _log_size(call)
    return None, is_complete or size > call.integer("offset", 0) or _is_of_another(call, _log_attempt(call))


def _log_attempt(call: Call) -> Optional[int]:
    """Whose the log is now; None for one that is of all attempts, or named for its own."""
    if not call.path["path"].startswith(OWN_LOGS):
        return None
    run = _present_run(call)
    return attempt_of_logs(call.parts.logs_folder, run.id, run.attempt)


def _is_of_another(call: Call, attempt: Optional[int]) -> bool:
    return attempt is not None and call.integer("attempt", attempt) != attempt


def _log_size(call: Call) -> Tuple[int, bool]:
    run = _present_run(call)
    stored = _find_artifact(call, run.id)
    if stored is not None and _is_over(call, run):
        return stored.size_bytes, True
    path = _log_path(call)
    return (path.stat().st_size if path.exists() else 0), _is_over(call, run)


def _is_over(call: Call, run: Row[Any]) -> bool:
    """Is the log's attempt over?"""
    return run.status in TERMINAL or is_of_earlier_attempt(call.path["path"])


def _read_log(call: Call) -> Content:
    run = _present_run(call)
    offset, limit = call.integer("offset", 0), call.integer("limit", READ_MAX, 1, READ_MAX)
    attempt = _log_attempt(call)
    heads = {} if attempt is None else {"X-Log-Attempt": str(attempt)}
    if _is_of_another(call, attempt):
        return Content(headers={"X-Log-Complete": "0", **heads}, media_type="text/plain; charset=utf-8")
    stored = _find_artifact(call, run.id) if _is_over(call, run) else None
    if stored is not None:
        with call.parts.store.open(stored.digest) as file:
            file.seek(offset)
            data, size = file.read(limit), stored.size_bytes
    else:
        path = _log_path(call)
        if not path.exists():
            if _is_over(call, run):
                raise NotFoundError("Run {} has no log {!r}.".format(run.id, call.path["path"][:200]))
            return Content(headers={"X-Log-Complete": "0", **heads}, media_type="text/plain; charset=utf-8")
        with open(path, "rb") as file:
            file.seek(offset)
            data, size = file.read(limit), os.fstat(file.fileno()).st_size
    is_complete = _is_over(call, run) and offset + len(data) >= size
    heads["X-Log-Complete"] = str(int(is_complete))
    return Content(data, headers=heads, media_type="text/plain; charset=utf-8")


def add_metrics(call: Call) -> MetricsReply:
    """A writer's next metric values, in columns; a replay counts once."""
    run = _present_run(call)
    try:
        batch = decode_batch(call.body)
    except ValueError as error:
        raise UserErrorException(f"These are not metrics: {error}.") from None
    if call.principal is not None and call.principal.kind == PrincipalKind.RUN and batch.attempt != run.attempt:
        raise _over(run.id, batch.attempt)
    mark = call.parts.database.write_bulk(
        lambda connection: metrics.add_batch(connection, run.id, run.workspace, batch, call.now)
    )
    call.parts.events.notify(call.path["run_id"])
    return MetricsReply(mark)


def _over(run_id: str, attempt: int) -> ConflictError:
    return ConflictError(f"Attempt {attempt} of run {run_id} is over.")


def get_metrics(call: Call) -> Content:
    """A run's metrics in columns (see ``protocol/metrics.py``); ``recursive``: its children's too."""
    run = _present_run(call)
    with call.parts.database.read() as connection:
        found = {run.id: metrics.read_metrics(connection, run.id, call.query.get("name"))}
        if call.query.get("recursive") == "1":
            for child in runs.list_runs(connection, run.workspace, runs.RunQuery(parent=run.id)).runs:
                found[child.id] = metrics.read_metrics(connection, child.id, call.query.get("name"))
    return Content(encode_read(found))


def get_usage(call: Call) -> Content:
    """What the run has taken of its nodes, in columns."""
    run = _present_run(call)
    with call.parts.database.read() as connection:
        return Content(encode_read({run.id: metrics.read_usage(connection, run.id)}))


def add_artifacts(call: Call) -> Count:
    """Record files of a run; each blob must be in the store."""
    run = _present_run(call)
    body: ArtifactList = call.body
    check_contents(call.parts.store, body.artifacts)
    count = call.parts.database.write(
        lambda connection: runs.add_artifacts(connection, run, body.artifacts, call.user, call.now)
    )
    call.parts.events.notify(call.path["run_id"])
    return Count(count)


def list_artifacts(call: Call) -> List[Artifact]:
    """The run's files by path."""
    run = _present_run(call)
    with call.parts.database.read() as connection:
        return runs.list_artifacts(connection, run.id, call.query.get("prefix", ""))


def read_artifact(call: Call) -> Content:
    """One file of the run; a log that still grows too."""
    run = _present_run(call)
    stored = _find_artifact(call, run.id)
    if stored is not None:
        return Content(file=call.parts.store.open(stored.digest), size_bytes=stored.size_bytes)
    path = _log_path(call)
    if not path.is_file():
        raise NotFoundError("Run {} has no file {!r}.".format(run.id, call.path["path"][:200]))
    return Content(file=path.open("rb"), size_bytes=path.stat().st_size)


def find_missing_blobs(call: Call) -> DigestList:
    """Which of these contents the server lacks."""
    asked: DigestList = call.body
    digests = [check_digest(one) for one in asked.digests]
    present = call.parts.store.has(digests)
    return DigestList(tuple(one for one in digests if one not in present))


def put_blobs(call: Call) -> DigestList:
    """Store a bundle of small contents; answers their digests, recomputed here."""
    try:
        pieces = split_bundle(call.body)
    except ValueError as error:
        raise UserErrorException(f"This is not a bundle of contents: {error}.") from None
    return DigestList(tuple(call.parts.store.put_many(pieces)))


def begin_upload(call: Call) -> Upload:
    """Begin to send one large content in parts, or go on with it."""
    spec: UploadSpec = call.body
    check_digest(spec.digest)
    return call.parts.store.plan_upload(spec)


def sign_parts(call: Call) -> List[SignedPart]:
    """Where these parts of an upload may be put without the server."""
    asked: PartList = call.body
    if len(asked.numbers) > SIGNED_MAX:
        raise UserErrorException(f"At most {SIGNED_MAX} parts are signed at once, not {len(asked.numbers)}.")
    return call.parts.store.sign_parts(call.path["upload_id"], asked.numbers)


def append_upload(call: Call) -> Offset:
    """The next part; a part that is here already is passed over."""
    return Offset(call.parts.store.append_upload(call.path["upload_id"], call.integer("offset", 0), call.body))


def finish_upload(call: Call) -> DigestList:
    """End an upload: its digest is recomputed, and must be the one named. No digest: not done yet, ask again."""
    body: DigestList = call.body
    if len(body.digests) != 1:
        raise UserErrorException("Name the one digest of the upload.")
    found = call.parts.store.finish_upload(call.path["upload_id"], check_digest(body.digests[0]))
    return DigestList((found,) if found else ())


def read_blob(call: Call) -> Content:
    """A content by its digest."""
    digest = check_digest(call.path["digest"])
    if not call.parts.store.has([digest]):
        raise NotFoundError(f"The server has no content {digest}.")
    return Content(file=call.parts.store.open(digest), size_bytes=call.parts.store.size(digest))


def get_blob_address(call: Call) -> BlobAddress:
    """Where a content may be read without the server, if there is such a place."""
    digest = check_digest(call.path["digest"])
    size = call.parts.store.size(digest)
    return BlobAddress(call.parts.store.find_address(digest) or "", size)


def read_snapshot_files(call: Call) -> Content:
    """The first of these contents of the run's snapshot as a bundle: as many as one reply holds."""
    asked: DigestList = call.body
    _check_snapshot(call, asked.digests)
    return Content(join_bundle(call.parts.store.read_many(list(asked.digests), BUNDLE_MAX)))


def read_snapshot_file(call: Call) -> Content:
    """One content of the run's snapshot, or the snapshot itself."""
    digest = call.path["digest"]
    _check_snapshot(call, (digest,))
    return Content(file=call.parts.store.open(digest), size_bytes=call.parts.store.size(digest))


def _check_snapshot(call: Call, digests: Sequence[str]) -> None:
    """Do they belong to the run's snapshot? NotFoundError otherwise: a run's token reads nothing else."""
    with call.parts.database.read() as connection:
        snapshot = runs.get_run(connection, call.workspace, call.path["run_id"]).spec.snapshot
    if not digests or snapshot is None:
        raise NotFoundError("Run {} has no such snapshot.".format(call.path["run_id"]))
    if set(digests) == {snapshot}:
        return
    known = {entry.digest for entry in decode_tree(call.parts.store.read(snapshot)).entries}
    for one in digests:
        if one not in known:
            raise NotFoundError("The snapshot of run {} has no {!r}.".format(call.path["run_id"], one[:80]))


def _present_run(call: Call) -> Row[Any]:
    with call.parts.database.read() as connection:
        return runs.get_row(connection, call.workspace, call.path["run_id"])


def _find_artifact(call: Call, run_id: str) -> Optional[Artifact]:
    with call.parts.database.read() as connection:
        return runs.find_artifact(connection, run_id, call.path["path"])


def _log_path(call: Call) -> Path:
    run_folder = call.parts.logs_folder / folder_name(call.path["run_id"])
    return join_inside(run_folder, check_path(call.path["path"]))


def _disk_error(error: OSError, what: str) -> Exception:
    if error.errno in DISK_FULL:
        return StorageFullError(f"The server's disk is full, so {what} was not kept; free some space.")
    return UserErrorException(f"{what} cannot be kept: {error.strerror}.")

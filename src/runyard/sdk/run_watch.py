"""Waiting for a run: told by the server, not asked again and again; with its log in v1's frame if wanted."""

import json
import sys
from typing import TYPE_CHECKING, Any, Dict, List

from runyard.errors import ActivityFailedException, NotFoundError
from runyard.protocol.attempt_logs import log_of_attempt
from runyard.protocol.distributed import tasks_of
from runyard.protocol.runs import TERMINAL, RunStatus
from runyard.protocol.runs import Run as RunRecord
from runyard.sdk.run_record import details, error_document, read_log
from runyard.sdk.session import current_server

if TYPE_CHECKING:
    from runyard.client.http import Server
    from runyard.sdk.run import Run

#: How long one request waits at the server, seconds.
WAIT_S = 30

#: What is followed: the build of the environment first, then the script.
BUILD_LOG, SCRIPT_LOG = "azureml-logs/20_image_build_log.txt", "user_logs/std_log.txt"

_WAITING = (RunStatus.STARTING, RunStatus.PROVISIONING, RunStatus.PREPARING, RunStatus.QUEUED)


def wait_for_completion(run: "Run", show_output: bool, raise_on_error: bool) -> Any:
    """The run's details once it has ended."""
    if show_output:
        _show(run)
    # Taken once: a server that somebody stops is not started again by those who only wait.
    record, server = run._known(), current_server()
    while record.status not in TERMINAL:
        record = _wait(run, server, {"ended": 1})
    if show_output:
        _summarise(run, record)
    if record.status == RunStatus.FAILED and raise_on_error:
        raise ActivityFailedException(f"Activity Failed:\n{json.dumps(error_document(record), indent=4)}")
    return details(run, record)


def wait_for_event(run: "Run") -> RunRecord:
    """The run as soon as something has happened to it that we have not seen, or after some seconds."""
    return _wait(run, current_server(), {"after": run._known().event_seq})


def _wait(run: "Run", server: "Server", until: Dict[str, Any]) -> RunRecord:
    names: Dict[str, Any] = {"workspace": run.experiment.workspace.name, "run_id": run.id}
    record: RunRecord = server.call("wait_run", query={**until, "wait_s": WAIT_S}, **names)
    run._cached = record
    return record


def follow_log(run: "Run", name: str, show: Any) -> None:
    """Pass every piece of a log's text to ``show`` as it comes, until the log is complete.

    Where the run starts again, the rest of the old attempt's log comes first, and then all of the new one's.
    """
    offset, server, workspace = 0, current_server(), run.experiment.workspace.name
    pending, attempt = b"", None
    while True:
        query = {"offset": offset, "wait_s": WAIT_S, "attempt": attempt}
        data, head = server.call_with_head(
            "read_log", query=query, timeout_s=WAIT_S + 60, workspace=workspace, run_id=run.id, path=name
        )
        now = head.get("X-Log-Attempt")
        if attempt is not None and now is not None and now != attempt:
            rest = _rest_of_log(run, log_of_attempt(name, int(attempt)), offset)
            show((pending + rest).decode("utf-8", "replace"))
            pending, offset, attempt = b"", 0, now
            continue
        attempt = now
        offset += len(data)
        text, pending = _decoded(pending + data)
        if text:
            show(text)
        if head.get("X-Log-Complete") == "1":
            if pending:
                show(pending.decode("utf-8", "replace"))
            return
        if name == BUILD_LOG and run._refresh().status not in _WAITING[:3]:
            return


def _rest_of_log(run: "Run", name: str, offset: int) -> bytes:
    """What a log that is complete has from there on; nothing where none of it was heard of."""
    try:
        return read_log(run, name, offset)
    except NotFoundError:
        return b""


def _show(run: "Run") -> None:
    _write(f"RunId: {run.id}\nWeb View: {run.get_portal_url()}\n")
    record = run._known()
    while record.status in _WAITING:
        if record.status == RunStatus.PREPARING and _has_log(run, BUILD_LOG):
            _stream(run, BUILD_LOG)
        record = run._refresh()
        if record.status in _WAITING:
            record = wait_for_event(run)
    name = _script_log(record)
    if record.status not in TERMINAL or _has_log(run, name):
        _stream(run, name)


def _script_log(record: RunRecord) -> str:
    """The log that is followed: of several processes, the first worker's."""
    asked = record.spec.distribution
    tasks = () if asked is None else tasks_of(asked, record.spec.node_count)
    return next((task.log_name for task in tasks if task.is_worker), SCRIPT_LOG)


def _stream(run: "Run", name: str) -> None:
    title = f"Streaming {name}"
    _write("\n{}\n{}\n\n".format(title, "=" * len(title)))
    follow_log(run, name, _write)


def _summarise(run: "Run", record: RunRecord) -> None:
    _write("\n\nExecution Summary\n=================\n")
    _write(f"RunId: {run.id}\nWeb View: {run.get_portal_url()}\n")
    if record.warnings:
        _write("\nWarnings:\n{}\n".format("\n".join(record.warnings)))
    if record.error is not None:
        _write(f"\nError:\n{record.error.message}\n")
    _write("\n")


def _has_log(run: "Run", name: str) -> bool:
    names: List[str] = [one.path for one in run._call("list_logs")]
    return name in names


def _decoded(data: bytes) -> Any:
    """The text in ``data``, and the bytes of a character that is not whole yet."""
    for cut in range(min(3, len(data)) + 1):
        end = len(data) - cut
        try:
            return data[:end].decode("utf-8"), data[end:]
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace"), b""


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()

"""What a run's record holds, read and written over HTTP: details, metrics, files, logs."""

import html
import io
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Optional

from runyard.client.transfer import receive_blob, receive_file, send_blobs
from runyard.errors import NotFoundError, UserErrorException
from runyard.files.hashing import hash_file
from runyard.protocol.lineage import Direction
from runyard.protocol.metrics import USAGE_PREFIX, Columns, decode_read, iterate, rank_of
from runyard.protocol.runs import Artifact, ArtifactList, RunStatus
from runyard.protocol.runs import Run as RunRecord
from runyard.protocol.trees import check_path
from runyard.sdk.details import Details
from runyard.sdk.run_definition import definition_of
from runyard.sdk.session import current_server
from runyard.sdk.times import iso_time, utc_time

if TYPE_CHECKING:
    from runyard.sdk.run import Run


#: Other names of a log, which it has while the run goes on too.
LOG_NAMES = {"azureml-logs/70_driver_log.txt": "user_logs/std_log.txt"}

#: States in which the details tell what a run waits for, since when, for how long and what helps.
_WAITING = (RunStatus.STARTING, RunStatus.PROVISIONING, RunStatus.PREPARING, RunStatus.QUEUED)


def iterate_runs(workspace: Any, query: Dict[str, Any]) -> Iterator[RunRecord]:
    """Runs of a workspace, page by page, newest first."""
    asked = dict(query)
    for name in ("tags", "properties"):
        asked[name] = _labels(asked.get(name))
    while True:
        page = workspace._call("list_runs", query=asked)
        yield from page.runs
        if page.next_cursor is None:
            return
        asked["cursor"] = page.next_cursor


def details(run: "Run", known: Optional[RunRecord] = None) -> Details:
    """The run in v1's keys; ``known`` is its record where the caller has just read it."""
    record = known or run._refresh()
    found = Details(
        runId=record.id,
        target=record.target,
        status=record.status,
        startTimeUtc=None if record.started_at is None else iso_time(record.started_at),
        endTimeUtc=None if record.ended_at is None else iso_time(record.ended_at),
        services={},
        warnings=[{"source": "Runyard", "message": one} for one in record.warnings],
        error=None if record.error is None else _error(record),
        properties={**record.properties, "ContentSnapshotId": record.spec.snapshot or ""},
        inputDatasets=[_input(one) for one in record.spec.inputs if one.dataset_id is not None],
        outputDatasets=_outputs(run, record),
        runDefinition=definition_of(record.spec),
        logFiles=_log_urls(run, record),
        submittedBy=record.created_by,
        attempt=record.attempt,
        reason=record.reason,
        why=run.why() if record.status in _WAITING else None,
    )
    for optional in ("startTimeUtc", "endTimeUtc", "warnings", "error", "reason", "why"):
        if not found[optional]:
            del found[optional]
    return found


def details_with_logs(run: "Run") -> Details:
    """As ``details``, with texts for the logs' addresses."""
    found = details(run)
    found["logFiles"] = {name: read_log(run, name).decode("utf-8", "replace") for name in found["logFiles"]}
    return found


def read_log(run: "Run", name: str, offset: int = 0) -> bytes:
    """A log's bytes from ``offset`` up to now."""
    pieces: List[bytes] = []
    while True:
        piece = run._call("read_log", query={"offset": offset}, path=name)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        offset += len(piece)


def read_metrics(run: "Run", name: Optional[str], recursive: bool) -> Dict[str, Any]:
    """Metrics by name, or by run id and name."""
    body = run._call("get_metrics", query={"name": name, "recursive": "1" if recursive else None})
    found = {run_id: _values(columns) for run_id, columns in decode_read(body).items()}
    return found if recursive else found[run.id]


def read_metrics_by_rank(run: "Run", name: Optional[str]) -> Dict[Optional[int], Dict[str, Any]]:
    """Metrics by the rank of the process that logged them, then by name."""
    (columns,) = decode_read(run._call("get_metrics", query={"name": name})).values()
    ranks = sorted({rank_of(one.writer) for one in columns}, key=lambda rank: -1 if rank is None else rank)
    return {rank: _values([one for one in columns if rank_of(one.writer) == rank]) for rank in ranks}


def read_usage(run: "Run") -> Dict[int, Dict[str, List[Any]]]:
    """(time, value) of what the run took, by node and name."""
    (columns,) = decode_read(run._call("get_usage")).values()
    found: Dict[int, Dict[str, List[Any]]] = {}
    for one in columns:
        node, _, name = one.key[len(USAGE_PREFIX) :].partition("/")
        values = found.setdefault(int(node), {}).setdefault(name, [])
        values += [(utc_time(at), value) for _, at, value in iterate(one)]
    return found


def file_names(run: "Run") -> List[str]:
    """Paths of the record's files, live logs included."""
    stored = {one.path for one in run._call("list_artifacts")}
    return sorted(stored | {one.path for one in run._call("list_logs")})


def download_file(run: "Run", name: str, output_file_path: Optional[str]) -> None:
    """Download one file to a path, into a folder, or into the current folder."""
    target = output_file_path or os.path.basename(name)
    if target.endswith(("/", os.sep)) or os.path.isdir(target):
        target = os.path.join(target, os.path.basename(name))
    digests = {one.path: one.digest for one in run._call("list_artifacts", query={"prefix": name})}
    try:
        _receive(run, name, target, digests.get(name))
    except NotFoundError:
        log = LOG_NAMES.get(name, name)
        if all(one.path != log for one in run._call("list_logs")):
            raise UserErrorException(
                f"File with path {name} was not found; run.get_file_names() lists what there is."
            ) from None
        # It still grows: what is there now.
        receive_file(iter([read_log(run, log)]), target, None)


def download_files(
    run: "Run", prefix: Optional[str], output_directory: Optional[str], output_paths: Any, append_prefix: bool
) -> None:
    """Download every file below a prefix."""
    clean = (prefix or "").strip("/")
    found = [(one.path, one.digest) for one in run._call("list_artifacts") if _is_below(one.path, clean)]
    stored = {path for path, _ in found}
    # Logs that still grow, and those of a machine that was lost, which nobody has stored.
    found += [
        (one.path, None) for one in run._call("list_logs") if _is_below(one.path, clean) and one.path not in stored
    ]
    if output_paths is not None and len(output_paths) != len(found):
        raise UserErrorException(f"{len(output_paths)} paths were given for {len(found)} files.")
    for place, (path, digest) in enumerate(found):
        relative = path if append_prefix or not clean else path[len(clean) :].lstrip("/")
        target = os.path.join(output_directory or ".", relative or os.path.basename(path))
        target = target if output_paths is None else output_paths[place]
        if digest is None:
            receive_file(iter([read_log(run, path)]), target, None)
        else:
            _receive(run, path, target, digest)


def download_logs(run: "Run", destination: Optional[str]) -> List[str]:
    """Download every log; returns the paths."""
    paths = []
    for one in run._call("list_logs"):
        path = os.path.join(destination or run.id, *one.path.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(read_log(run, one.path))
        paths.append(path)
    return paths


def upload_files(run: "Run", names: List[str], sources: List[Any]) -> None:
    """Add files (paths or opened streams) to the record."""
    artifacts, blobs, temporary = [], {}, []
    try:
        for name, source in zip(names, sources):
            check_path(name)
            if isinstance(source, io.IOBase) or hasattr(source, "read"):
                source = _to_file(source)
                temporary.append(source)
            digest, size_bytes = hash_file(source)
            artifacts.append(Artifact(name, digest, size_bytes))
            blobs[digest] = os.fspath(source)
        send_blobs(current_server(), run.experiment.workspace.name, blobs)
        run._call("add_artifacts", ArtifactList(tuple(artifacts)))
    finally:
        for path in temporary:
            os.unlink(path)


def upload_folder(run: "Run", name: str, path: str) -> None:
    """Add a folder's files to the record."""
    names, sources = [], []
    for parent, _, files in os.walk(path):
        for file in sorted(files):
            full = os.path.join(parent, file)
            names.append("{}/{}".format(name.strip("/"), os.path.relpath(full, path).replace(os.sep, "/")))
            sources.append(full)
    upload_files(run, names, sources)


def as_html(run: "Run") -> str:
    """The run as a table for a notebook."""
    record = run._refresh()
    cells = (
        ("Experiment", record.experiment),
        ("Id", record.id),
        ("Status", record.status),
        ("Details", '<a href="{0}" target="_blank" rel="noopener">{0}</a>'.format(html.escape(run.get_portal_url()))),
    )
    head = "".join(f"<th>{name}</th>" for name, _ in cells)
    body = "".join("<td>{}</td>".format(text if name == "Details" else html.escape(text)) for name, text in cells)
    return f"<table><tr>{head}</tr><tr>{body}</tr></table>"


def error_document(record: RunRecord) -> Dict[str, Any]:
    """v1's form of an error."""
    return {"error": _error(record)["error"], "time": "0001-01-01T00:00:00.000Z"} if record.error else {}


def _error(record: RunRecord) -> Dict[str, Any]:
    error = record.error
    assert error is not None
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "details": [{"message": error.details}] if error.details else [],
        }
    }


def _input(one: Any) -> Dict[str, Any]:
    return {
        "dataset": {"id": one.dataset_id},
        "consumptionDetails": {
            "type": "RunInput",
            "inputName": one.name,
            "mechanism": one.mode.capitalize(),
            "pathOnCompute": one.path_on_compute,
        },
    }


def _outputs(run: "Run", record: RunRecord) -> List[Dict[str, Any]]:
    """The datasets that the run made; there are some once it has completed."""
    if not any(one.dataset is not None for one in record.spec.outputs):
        return []
    uses = run.experiment.workspace._call("list_run_datasets", run_id=record.id)
    modes = {one.name: one.mode for one in record.spec.outputs}
    return [
        {
            "dataset": {"id": one.dataset_id},
            "outputType": "RunOutput",
            "outputDetails": {"outputName": one.name, "mechanism": modes[one.name].capitalize()},
        }
        for one in uses
        if one.direction == Direction.OUTPUT
    ]


def _log_urls(run: "Run", record: RunRecord) -> Dict[str, str]:
    workspace, server = run.experiment.workspace.name, current_server()
    paths = record.log_paths
    if paths is None:
        paths = tuple(one.path for one in run._call("list_logs"))
    return {path: server.url("read_log", workspace=workspace, run_id=run.id, path=path) for path in paths}


def _values(columns: List[Columns]) -> Dict[str, Any]:
    series: Dict[str, List[Any]] = {}
    for one in columns:
        series.setdefault(one.key, []).extend(value for _, _, value in iterate(one))
    return {name: values[0] if len(values) == 1 else values for name, values in series.items()}


def _labels(asked: Any) -> Optional[str]:
    if not asked:
        return None
    if isinstance(asked, str):
        return json.dumps({asked: None})
    return json.dumps({str(key): None if value is None else str(value) for key, value in asked.items()})


def _is_below(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(prefix + "/")


def _receive(run: "Run", name: str, target: str, digest: Optional[str]) -> None:
    workspace = run.experiment.workspace.name
    server = current_server()

    def pieces() -> Iterable[bytes]:
        return server.stream("read_artifact", workspace=workspace, run_id=run.id, path=name)

    receive_blob(server, workspace, digest, target, pieces)


def _to_file(stream: Any) -> str:
    handle, path = tempfile.mkstemp(prefix="runyard-upload-")
    with os.fdopen(handle, "wb") as file:
        for piece in iter(lambda: stream.read(1 << 20), stream.read(0)):
            file.write(piece.encode("utf-8") if isinstance(piece, str) else piece)
    return path

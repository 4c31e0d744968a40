"""Datasets."""

from typing import List

from sqlalchemy import Connection

from runyard.db import datasets, datastores, lineage, runs
from runyard.db.runs import WARNINGS_MAX
from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol.datasets import Dataset, DatasetSpec, Source
from runyard.protocol.labels import LabelChange
from runyard.protocol.lineage import NAMES_MAX, DatasetUse, SeenFiles, Sentences, Totals
from runyard.protocol.mounts import check_url
from runyard.protocol.selection import check_steps
from runyard.protocol.trees import check_path
from runyard.server import names
from runyard.server.call import Call

#: Most sources of a dataset, and the longest of them, in characters.
SOURCES_MAX, SOURCE_CHARS_MAX = 10_000, 4_096
STEPS_MAX = 100
#: More than any count of files or bytes.
BIGGEST = 1 << 62
#: Most characters of a warning that a runner gives.
WARNING_CHARS_MAX = 4_000


def save_dataset(call: Call) -> Dataset:
    """Keep a dataset's definition; with a name, as its next version."""
    spec: DatasetSpec = call.body
    check_definition(spec)
    if not 0 < len(spec.sources) <= SOURCES_MAX:
        raise UserErrorException(f"A dataset has 1 to {SOURCES_MAX} sources, not {len(spec.sources)}.")
    for source in spec.sources:
        _check_source(call, source)
    if spec.totals is not None:
        _check_totals(spec.totals)

    def save(connection: Connection) -> Dataset:
        found = datasets.save_dataset(connection, spec, call.workspace, call.user, call.now)
        if spec.totals is not None and spec.name is not None:
            lineage.keep_totals(connection, found, spec.totals, call.user, call.now)
        return found

    return call.parts.database.write(save)


def list_datasets(call: Call) -> List[Dataset]:
    """The latest version of each name, or every version of one."""
    with call.parts.database.read() as connection:
        return datasets.list_datasets(connection, call.workspace, call.query.get("name"))


def get_dataset(call: Call) -> Dataset:
    """By id."""
    with call.parts.database.read() as connection:
        return datasets.get_dataset(connection, call.workspace, call.path["dataset_id"])


def find_dataset(call: Call) -> Dataset:
    """By name and version."""
    version = call.integer("version", 0) if call.query.get("version") else None
    with call.parts.database.read() as connection:
        return datasets.find_dataset(connection, call.workspace, call.path["name"], version)


def list_dataset_runs(call: Call) -> List[DatasetUse]:
    """The runs that read it, and the one that made it, newest first."""
    with call.parts.database.read() as connection:
        found = datasets.get_dataset(connection, call.workspace, call.path["dataset_id"])
        return lineage.list_of_dataset(connection, call.workspace, found.id)


def note_dataset_files(call: Call) -> Sentences:
    """What a run has found of an input of its own; answers what is not as it was when it was seen first."""
    body: SeenFiles = call.body
    if len(body.files) > SOURCES_MAX:
        raise UserErrorException(f"A dataset has at most {SOURCES_MAX} sources, not {len(body.files)}.")
    if body.totals is not None:
        _check_totals(body.totals)

    def note(connection: Connection) -> Sentences:
        run = runs.get_row(connection, call.workspace, call.path["run_id"])
        found = datasets.get_dataset(connection, call.workspace, call.path["dataset_id"])
        if not lineage.is_input(connection, call.workspace, run.id, found.id):
            raise NotFoundError(f"Run {run.id} has no dataset {found.id} as an input.")
        known = {source.url for source in found.sources}
        files = [one for one in body.files if one.url in known]
        changed = lineage.note_files(connection, call.workspace, found.id, run.id, files, call.user, call.now)
        if body.totals is not None and found.name is not None:
            changed += lineage.note_totals(connection, found, run.id, body.totals, call.user, call.now)
        if changed:
            runs.add_warnings(connection, run.id, changed)
        return Sentences(tuple(changed))

    return call.parts.database.write(note)


def add_warnings(call: Call) -> None:
    """What a run's own runner says of its data."""
    body: Sentences = call.body
    if len(body.sentences) > WARNINGS_MAX:
        raise UserErrorException(f"A run has at most {WARNINGS_MAX} warnings, not {len(body.sentences)}.")
    cut = [sentence[:WARNING_CHARS_MAX] for sentence in body.sentences]

    def add(connection: Connection) -> None:
        run = runs.get_row(connection, call.workspace, call.path["run_id"])
        runs.add_warnings(connection, run.id, cut)

    call.parts.database.write(add)


def change_dataset(call: Call) -> Dataset:
    """Change its labels."""
    change: LabelChange = call.body
    return call.parts.database.write(
        lambda c: datasets.change_dataset(c, call.workspace, call.path["dataset_id"], change)
    )


def unregister_dataset(call: Call) -> None:
    """Take its name off the list."""
    call.parts.database.write(lambda c: datasets.unregister_dataset(c, call.workspace, call.path["name"]))


def check_definition(spec: DatasetSpec) -> None:
    """UserErrorException for what cannot be a dataset, wherever its files are."""
    if spec.name is not None:
        names.check_asset_name(spec.name)
    if len(spec.steps) > STEPS_MAX:
        raise UserErrorException(f"A dataset has at most {STEPS_MAX} steps, not {len(spec.steps)}.")
    check_steps(spec.steps, spec.kind)


def _check_totals(totals: Totals) -> None:
    if not 0 <= totals.count < BIGGEST or not 0 <= (totals.size_bytes or 0) < BIGGEST:
        raise UserErrorException("A dataset's count of files and their bytes are whole numbers, not below 0.")
    if len(totals.names) > NAMES_MAX or any(len(name) > SOURCE_CHARS_MAX for name in totals.names):
        raise UserErrorException(
            f"At most {NAMES_MAX} files of a dataset are named, each with at most {SOURCE_CHARS_MAX} characters."
        )


def _check_source(call: Call, source: Source) -> None:
    kinds = [one for one in (source.url, source.file, source.datastore) if one is not None]
    if len(kinds) != 1:
        raise UserErrorException("A dataset's source is a URL, a local path or a path of a datastore: exactly one.")
    if max(len(kinds[0]), len(source.path)) > SOURCE_CHARS_MAX:
        raise UserErrorException(f"A dataset's source has at most {SOURCE_CHARS_MAX} characters.")
    if source.url is not None:
        check_url(source.url)
    elif source.file is not None:
        if not source.file.startswith("/"):
            raise UserErrorException(f"A local source is an absolute path, not {source.file[:200]!r}.")
    else:
        with call.parts.database.read() as connection:
            datastores.get_datastore(connection, call.workspace, source.datastore or "")
        if source.path.strip("/"):
            check_path(source.path.strip("/"))

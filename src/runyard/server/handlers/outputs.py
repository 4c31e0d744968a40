"""What runs write to datastores: checked when a run is submitted, taken file by file from its runner."""

from typing import Tuple

from sqlalchemy import Connection

from runyard.db import datastores, runs
from runyard.db.labels import check_labels
from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol.datastores import Datastore, DatastoreFile
from runyard.protocol.outputs import OutputMode, OutputSpec, may_overwrite, output_path
from runyard.protocol.runs import RunKind, RunSpec
from runyard.protocol.trees import check_path
from runyard.server import names
from runyard.server.call import Call
from runyard.server.handlers.datasets import check_definition
from runyard.server.handlers.datastores import find_store, write_file
from runyard.server.threads import in_thread

#: Most outputs of a run, and patterns of one.
OUTPUTS_MAX, GLOBS_MAX = 100, 100


async def write_output_file(call: Call) -> DatastoreFile:
    """One file of an output, all of it or nothing; the run's spec says where it goes."""
    output, store, secret = await in_thread(_find, call)
    path = "/".join(part for part in (output_path(output, call.path["run_id"]), check_path(call.path["path"])) if part)
    return await write_file(call, store, secret, path, may_overwrite(output))


def _find(call: Call) -> Tuple[OutputSpec, Datastore, str]:
    with call.parts.database.read() as connection:
        run = runs.get_row(connection, call.workspace, call.path["run_id"])
        for one in runs.get_outputs(connection, run.id):
            if one.name == call.path["name"]:
                return (one, *find_store(call, one.datastore))
    raise NotFoundError("Run {} has no output {!r}.".format(call.path["run_id"], call.path["name"][:80]))


def check_outputs(connection: Connection, call: Call, spec: RunSpec) -> None:
    """UserErrorException for outputs that could not be written, or could not become the datasets that they should."""
    if len(spec.outputs) > OUTPUTS_MAX:
        raise UserErrorException(f"A run has at most {OUTPUTS_MAX} outputs.")
    if spec.outputs and spec.kind == RunKind.INTERACTIVE:
        raise UserErrorException("An interactive run has no outputs; upload files by its datastore.")
    taken = {one.name for one in spec.inputs}
    for one in spec.outputs:
        names.check_input_name(one.name)
        if one.name in taken:
            raise UserErrorException(f"Two inputs or outputs of the run have the name {one.name!r}.")
        taken.add(one.name)
        _check_output(connection, call, one, spec.run_id)
    _check_apart(spec)


def _check_apart(spec: RunSpec) -> None:
    """UserErrorException for two outputs of which one would write into the other."""
    for number, one in enumerate(spec.outputs):
        for other in spec.outputs[:number]:
            paths = [output_path(each, spec.run_id) for each in (other, one)]
            # A path without parts is the datastore's root, which holds every other.
            inner, outer = sorted((path.split("/") if path else [] for path in paths), key=len, reverse=True)
            if one.datastore == other.datastore and inner[: len(outer)] == outer:
                shown = " and ".join(repr(path) for path in paths)
                raise UserErrorException(
                    f"Outputs {other.name!r} and {one.name!r} go to one place of datastore {one.datastore!r}, {shown}: "
                    "give each a folder of its own, by {output-name} in its path, say."
                )


def _check_output(connection: Connection, call: Call, output: OutputSpec, run_id: str) -> None:
    if output.mode not in (OutputMode.MOUNT, OutputMode.UPLOAD):
        raise UserErrorException(f"An output's mode is mount or upload, not {output.mode[:40]!r}.")
    datastores.get_datastore(connection, call.workspace, names.check_asset_name(output.datastore))
    for path in (output_path(output, run_id), (output.source or "").strip("/"), output.pattern):
        if path:
            check_path(path)
    if output.source is not None and not output.source.strip("/."):
        raise UserErrorException(f"Output {output.name!r} needs a folder as its source, not {output.source!r}.")
    if len(output.globs) > GLOBS_MAX:
        raise UserErrorException(f"An output has at most {GLOBS_MAX} patterns, not {len(output.globs)}.")
    for pattern in output.globs:
        check_path(pattern)
    if output.dataset is not None:
        if output.dataset.sources:
            raise UserErrorException(f"The dataset of output {output.name!r} has no sources before the run has ended.")
        check_definition(output.dataset)
        check_labels(output.dataset.tags, "tag")

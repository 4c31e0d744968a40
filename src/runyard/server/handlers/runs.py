"""Runs as users see them: submitted, listed, changed, canceled, waited for, explained."""

import json
from dataclasses import replace
from typing import Dict, List, Optional, Tuple

from sqlalchemy import Connection

from runyard.control import runs as life
from runyard.control import why
from runyard.control.schedule import LOCAL
from runyard.db import datasets, datastores, experiments, fleet, lineage, runs
from runyard.environments.spec import check_day
from runyard.errors import NotFoundError, SnapshotException, UserErrorException
from runyard.protocol.compute import NODES_MAX, ClusterSpec
from runyard.protocol.distributed import count_tasks, problem
from runyard.protocol.lineage import DatasetUse, Direction
from runyard.protocol.runs import (
    PRIORITY_MAX,
    SPEC_SCHEMA,
    Explanation,
    InputMode,
    Run,
    RunChange,
    RunEvent,
    RunKind,
    RunPage,
    RunSpec,
)
from runyard.protocol.trees import check_path, decode_tree
from runyard.protocol.words import counted
from runyard.server import names
from runyard.server.call import Call
from runyard.server.handlers.outputs import check_outputs
from runyard.server.storage_work import in_store_thread
from runyard.server.threads import in_thread
from runyard.server.waiting import wait_until

#: Longest wait of one request, seconds; the client asks again.
WAIT_MAX_S = 60
#: Most words of a command line, their characters in all, and inputs of a run.
WORDS_MAX, COMMAND_MAX, INPUTS_MAX = 10_000, 1_000_000, 1_000
#: Most processes of a run.
TASKS_MAX = 10_000
#: How often a run may start again, at the most, after faults of its machines.
RETRIES_MAX = 100
#: Longest time limit of a run: ten years, in seconds.
DURATION_MAX_S = 10 * 366 * 86_400


async def submit_run(call: Call) -> Run:
    """Check everything that can be checked now, then accept: from here on the run ends in a state with a reason."""
    spec: RunSpec = call.body
    await in_store_thread(call.parts.store, _check_spec, call, spec)
    spec = replace(spec, environment=call.parts.sealer.seal_spec(spec.environment))

    def create(connection: Connection) -> Run:
        experiments.create_experiment(connection, call.workspace, spec.experiment, call.user, call.now)
        run = runs.create_run(connection, spec, call.workspace, call.user, call.now)
        for one in spec.inputs:
            if one.dataset_id is not None:
                use = DatasetUse(run.id, one.dataset_id, Direction.INPUT, one.name, run.created_at)
                lineage.add_use(connection, call.workspace, use, call.user)
        return run

    run = await call.parts.database.write_soon(create)
    call.parts.loop.ring()
    return run


def list_runs(call: Call) -> RunPage:
    """A page, newest first; tags and properties are JSON objects, whose null values match any value."""
    query = runs.RunQuery(
        experiment=call.query.get("experiment"),
        status=call.query.get("status"),
        tags=_labels(call.query.get("tags")),
        properties=_labels(call.query.get("properties")),
        parent=call.query.get("parent"),
        limit=call.integer("limit", runs.PAGE_MAX, 1, runs.PAGE_MAX),
        cursor=call.query.get("cursor"),
    )
    with call.parts.database.read() as connection:
        return runs.list_runs(connection, call.workspace, query)


def get_run(call: Call) -> Run:
    """The run."""
    with call.parts.database.read() as connection:
        return runs.get_run(connection, call.workspace, call.path["run_id"])


def change_run(call: Call) -> Run:
    """Change labels; or end an interactive run."""
    change: RunChange = call.body

    def write(connection: Connection) -> Run:
        run = runs.change_run(connection, call.workspace, call.path["run_id"], change, call.user, call.now)
        if change.status is not None:
            life.end_interactive(connection, run, change.status, change.error, call.user, call.now)
        return runs.get_run(connection, call.workspace, run.id)

    changed = call.parts.database.write(write)
    call.parts.events.notify(call.path["run_id"])
    return changed


def cancel_run(call: Call) -> Run:
    """Wish that the run ends."""
    run = call.parts.database.write(
        lambda connection: life.request_cancel(connection, call.workspace, call.path["run_id"], call.user, call.now)
    )
    call.parts.loop.ring()
    call.parts.events.notify(call.path["run_id"])
    return run


async def wait_run(call: Call) -> Run:
    """The run as soon as it has an event after ``after`` (with ``ended=1``: its last one), or after ``wait_s`` seconds.

    Async, since it waits: a hundred of these hold up nothing.
    """
    found = await wait_until(call, _look_at_run, call.integer("wait_s", 30, 0, WAIT_MAX_S))
    return found if found is not None else await in_thread(get_run, call)


def _look_at_run(call: Call) -> Tuple[Optional[Run], bool]:
    """The run, if what is waited for has happened; looked at again and again, so read as a whole only then."""
    run_id = call.path["run_id"]
    with call.parts.database.read() as connection:
        found = runs.find_progress(connection, call.workspace, run_id)
        if found is None:
            raise NotFoundError(f"Run {run_id[:80]!r} does not exist in workspace {call.workspace!r}.")
        sequence, has_ended = found
        if call.integer("ended", 0, 0, 1):
            return (_ended_run(connection, call, run_id), True) if has_ended else (None, False)
        is_due = sequence > call.integer("after", 0)
        return (runs.get_run(connection, call.workspace, run_id), True) if is_due else (None, False)


def _ended_run(connection: Connection, call: Call, run_id: str) -> Run:
    """The run with the paths of its logs: whoever waited for its end asks for them next."""
    logs = tuple(one.path for one in runs.list_logs(connection, run_id))
    return replace(runs.get_run(connection, call.workspace, run_id), log_paths=logs)


def list_events(call: Call) -> List[RunEvent]:
    """The run's steps."""
    with call.parts.database.read() as connection:
        return runs.list_events(connection, call.workspace, call.path["run_id"], call.integer("after", 0))


def list_run_datasets(call: Call) -> List[DatasetUse]:
    """The datasets that it read, and those that it made."""
    with call.parts.database.read() as connection:
        run = runs.get_row(connection, call.workspace, call.path["run_id"])
        return lineage.list_of_run(connection, call.workspace, run.id)


def explain_run(call: Call) -> Explanation:
    """What the run waits for."""
    run = get_run(call)
    with call.parts.database.read() as connection:
        return why.explain_run(connection, run, call.parts.settings.local_slots, call.now)


def _check_fits(spec: RunSpec, cluster: ClusterSpec) -> None:
    """UserErrorException where the target can never have so many nodes at once; it says what can."""
    if spec.node_count <= cluster.max_nodes:
        return
    if cluster.is_one_node:
        raise UserErrorException(
            f"Compute target {cluster.name!r} is one node, not {spec.node_count}: "
            "a run of several nodes goes to an AmlCompute, or to an attached Slurm or Ray cluster."
        )
    lacks = f"Compute target {cluster.name!r} has at most {counted(cluster.max_nodes, 'node')}, not {spec.node_count}"
    if cluster.has_own_queue:
        raise UserErrorException(f"{lacks}.")
    more = f"--max-nodes {spec.node_count}"
    raise UserErrorException(
        f"{lacks}; update(max_nodes={spec.node_count}), or runyard compute update {cluster.name} {more}, allows more."
    )


def _check_spec(call: Call, spec: RunSpec) -> None:
    names.check_run_id(spec.run_id)
    names.check_experiment_name(spec.experiment)
    names.check_variables(spec.environment.variables)
    check_day(spec.environment.python)
    names.check_variables(spec.environment_variables)
    if spec.schema != SPEC_SCHEMA:
        raise UserErrorException(f"This server reads runs of schema {SPEC_SCHEMA}, not {spec.schema}.")
    if spec.kind not in (RunKind.SCRIPT, RunKind.INTERACTIVE):
        raise UserErrorException(f"A run is of the kind script or interactive, not {spec.kind[:40]!r}.")
    _check_nodes(spec)
    words = spec.command + spec.arguments
    if len(words) > WORDS_MAX or sum(len(word) for word in words) > COMMAND_MAX:
        raise UserErrorException(f"The command line has more than {WORDS_MAX} words or {COMMAND_MAX} characters.")
    if spec.max_run_duration_s is not None and not 1 <= spec.max_run_duration_s <= DURATION_MAX_S:
        raise UserErrorException(
            f"max_run_duration_seconds is from 1 to {DURATION_MAX_S}, not {spec.max_run_duration_s}."
        )
    retries = spec.max_infrastructure_retries
    if retries is not None and not 0 <= retries <= RETRIES_MAX:
        raise UserErrorException(f"max_infrastructure_retries is from 0 to {RETRIES_MAX}, not {retries}.")
    if abs(spec.priority) > PRIORITY_MAX:
        raise UserErrorException(f"A priority is from -{PRIORITY_MAX} to {PRIORITY_MAX}, not {spec.priority}.")
    if spec.kind == RunKind.SCRIPT:
        _check_script(call, spec)
    with call.parts.database.read() as connection:
        if spec.parent_run_id is not None:
            runs.get_run(connection, call.workspace, names.check_run_id(spec.parent_run_id))
        if spec.target != LOCAL:
            names.check_compute_name(spec.target)
            cluster = fleet.get_cluster(connection, call.workspace, spec.target)
            _check_fits(spec, cluster.spec)
        _check_inputs(connection, call, spec)
        check_outputs(connection, call, spec)


def _check_inputs(connection: Connection, call: Call, spec: RunSpec) -> None:
    if len(spec.inputs) > INPUTS_MAX:
        raise UserErrorException(f"A run has at most {INPUTS_MAX} inputs.")
    taken = set()
    for one in spec.inputs:
        names.check_input_name(one.name)
        if one.name in taken:
            raise UserErrorException(f"Two inputs of the run have the name {one.name!r}.")
        taken.add(one.name)
        for path in (one.path.strip("/"), (one.path_on_compute or "").strip("/")):
            if path:
                check_path(path)
        if one.mode not in (InputMode.MOUNT, InputMode.DOWNLOAD, InputMode.DIRECT):
            raise UserErrorException(f"An input's mode is mount, download or direct, not {one.mode[:40]!r}.")
        if one.dataset_id is not None:
            datasets.get_dataset(connection, call.workspace, names.check_asset_name(one.dataset_id))
        else:
            datastores.get_datastore(connection, call.workspace, names.check_asset_name(one.datastore or ""))


def _check_nodes(spec: RunSpec) -> None:
    if not 1 <= spec.node_count <= NODES_MAX:
        raise UserErrorException(f"node_count is from 1 to {NODES_MAX}, not {spec.node_count}.")
    wrong = None if spec.distribution is None else problem(spec.distribution, spec.node_count)
    if wrong is not None:
        raise UserErrorException(wrong)
    tasks = 1 if spec.distribution is None else count_tasks(spec.distribution, spec.node_count)
    if tasks > TASKS_MAX:
        raise UserErrorException(f"A run has at most {TASKS_MAX} processes, not {tasks}.")
    if spec.node_count > 1 and spec.distribution is None:
        raise UserErrorException(f"node_count is {spec.node_count}, and nothing says how the nodes work together.")
    if spec.node_count > 1 and spec.target == LOCAL:
        raise UserErrorException(
            f"The target 'local' is one node, not {spec.node_count}; create a cluster with "
            "AmlCompute.provisioning_configuration(max_nodes=...) and submit to that."
        )


def _check_script(call: Call, spec: RunSpec) -> None:
    if not spec.script and not spec.command:
        raise UserErrorException("A run needs a script or a command.")
    if spec.script:
        check_path(spec.script)
    if spec.snapshot is None:
        return
    if not call.parts.store.has([spec.snapshot]):
        raise SnapshotException(f"The snapshot {spec.snapshot[:80]} is not on the server; send it first.")
    tree = decode_tree(call.parts.store.read(spec.snapshot))
    present = call.parts.store.has([entry.digest for entry in tree.entries])
    missing = next((entry.path for entry in tree.entries if entry.digest not in present), None)
    if missing is not None:
        raise SnapshotException(f"The snapshot's file {missing!r} is not on the server; send it first.")
    if spec.script and not spec.command and all(entry.path != spec.script for entry in tree.entries):
        raise UserErrorException(f"The script {spec.script!r} is not in the source folder.")


def _labels(text: Optional[str]) -> Dict[str, Optional[str]]:
    if not text:
        return {}
    try:
        found = json.loads(text)
        return {str(key): None if value is None else str(value) for key, value in found.items()}
    except (ValueError, AttributeError, RecursionError):
        raise UserErrorException(f"Labels to look for are a JSON object, not {text[:80]!r}.") from None

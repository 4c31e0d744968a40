"""A run: as asked (RunSpec), as stored (Run), the states it may have and the ways between them."""

from dataclasses import field
from datetime import datetime, timezone
from typing import Dict, FrozenSet, Optional, Tuple

from runyard.protocol.distributed import Distribution
from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.outputs import OutputSpec
from runyard.protocol.record import record

#: Raised when a stored spec's shape changes; the upcaster of the older number is then added beside the decoder.
SPEC_SCHEMA = 1
#: A priority lies between this and its negative; each step of it counts as much as this long a wait, seconds.
PRIORITY_MAX, PRIORITY_STEP_S = 100, 600
#: Folders of a run's record that hold logs.
LOG_FOLDERS = ("user_logs/", "azureml-logs/", "logs/", "system_logs/")


class RunStatus:
    """v1's names of a run's states, as they appear everywhere."""

    NOT_STARTED = "NotStarted"
    STARTING = "Starting"
    PROVISIONING = "Provisioning"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    CANCEL_REQUESTED = "CancelRequested"
    NOT_RESPONDING = "NotResponding"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELED = "Canceled"


TERMINAL: FrozenSet[str] = frozenset((RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED))

_ENDS_EARLY = (RunStatus.CANCEL_REQUESTED, RunStatus.CANCELED, RunStatus.FAILED)

#: From each state, the states that may follow it. Queued after itself or a later state is a requeue: attempt + 1.
TRANSITIONS: Dict[str, FrozenSet[str]] = {
    RunStatus.STARTING: frozenset((RunStatus.PROVISIONING, RunStatus.PREPARING, RunStatus.RUNNING) + _ENDS_EARLY),
    RunStatus.PROVISIONING: frozenset((RunStatus.PREPARING,) + _ENDS_EARLY),
    RunStatus.PREPARING: frozenset((RunStatus.QUEUED,) + _ENDS_EARLY),
    RunStatus.QUEUED: frozenset((RunStatus.RUNNING, RunStatus.QUEUED) + _ENDS_EARLY),
    RunStatus.RUNNING: frozenset(
        (RunStatus.FINALIZING, RunStatus.NOT_RESPONDING, RunStatus.QUEUED, RunStatus.COMPLETED) + _ENDS_EARLY
    ),
    RunStatus.NOT_RESPONDING: frozenset((RunStatus.RUNNING, RunStatus.FINALIZING, RunStatus.QUEUED) + _ENDS_EARLY),
    RunStatus.CANCEL_REQUESTED: frozenset((RunStatus.CANCELED, RunStatus.FAILED, RunStatus.COMPLETED)),
    RunStatus.FINALIZING: frozenset((RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELED, RunStatus.QUEUED)),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELED: frozenset(),
}


def turn_of(submitted_at: int, priority: int) -> int:
    """Where a run stands among those that wait: who has the smallest number is the first.

    It is when a run of priority 0 would have been submitted to stand there. So a wait counts for as much as a priority,
    no run waits for ever behind those that come later, and the order of two runs never changes.
    """
    return submitted_at - priority * PRIORITY_STEP_S * 1_000_000


class RunKind:
    """Who carries the run's process: a compute target, or the caller itself."""

    SCRIPT = "script"
    INTERACTIVE = "interactive"


class InputMode:
    """How a run reads an input."""

    MOUNT = "mount"
    DOWNLOAD = "download"
    DIRECT = "direct"


@record
class InputSpec:
    """Data that a run reads: a dataset, or a datastore's folder."""

    #: Names the environment variables that hold the path; letters, digits and '_'.
    name: str
    mode: str = InputMode.MOUNT
    #: Either a saved dataset's id ...
    dataset_id: Optional[str] = None
    #: ... or a datastore and a path in it (v1's DataReference).
    datastore: Optional[str] = None
    path: str = ""
    path_on_compute: Optional[str] = None
    overwrite: bool = False


@record
class RunSpec:
    """What a user asks to run."""

    #: Made by the submitter, so that a repeated request is recognised: <experiment>_<unix seconds>_<8 hex>.
    run_id: str
    experiment: str
    kind: str = RunKind.SCRIPT
    schema: int = SPEC_SCHEMA
    #: The script, relative to the source folder; or ``command`` instead.
    script: Optional[str] = None
    command: Tuple[str, ...] = ()
    arguments: Tuple[str, ...] = ()
    #: 'local' or a cluster's name.
    target: str = "local"
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)
    #: Digest of the source folder's tree.
    snapshot: Optional[str] = None
    inputs: Tuple[InputSpec, ...] = ()
    outputs: Tuple[OutputSpec, ...] = ()
    environment_variables: Dict[str, str] = field(default_factory=dict)
    node_count: int = 1
    #: Among the runs that wait for the same target, those of a higher one come first.
    priority: int = 0
    #: Several processes, on these nodes; None: one process on one node.
    distribution: Optional[Distribution] = None
    max_run_duration_s: Optional[int] = None
    #: Memory that its job may take of each node, bytes; None: all that the node has.
    memory_bytes: Optional[int] = None
    #: How often the run may start again after a fault of the machines; None: the compute target's default.
    max_infrastructure_retries: Optional[int] = None
    display_name: Optional[str] = None
    tags: Dict[str, str] = field(default_factory=dict)
    properties: Dict[str, str] = field(default_factory=dict)
    parent_run_id: Optional[str] = None


@record
class RunError:
    """Why a run ended Failed (or what disturbed it)."""

    #: UserError: the script's; SystemError: ours or the machine's; EnvironmentError, DataError, TimeLimit: as named.
    code: str
    message: str
    #: The last lines of the log, or the traceback, as far as known.
    details: str = ""


@record
class Run:
    """A run as stored; every reader sees this one shape. Times are UTC microseconds."""

    id: str
    workspace: str
    experiment: str
    number: int
    status: str
    attempt: int
    created_by: str
    created_at: int
    spec: RunSpec
    target: str
    display_name: str
    started_at: Optional[int] = None
    ended_at: Optional[int] = None
    #: While waiting: what for, in one sentence.
    reason: Optional[str] = None
    #: Since when that reason holds.
    reason_at: Optional[int] = None
    node: Optional[str] = None
    cancel_requested: bool = False
    exit_code: Optional[int] = None
    error: Optional[RunError] = None
    warnings: Tuple[str, ...] = ()
    tags: Dict[str, str] = field(default_factory=dict)
    properties: Dict[str, str] = field(default_factory=dict)
    #: Digest of the environment's lock, once resolved.
    lock: Optional[str] = None
    #: Sequence number of the run's latest event.
    event_seq: int = 0
    #: When its present attempt came to the queue, UTC microseconds.
    queued_at: Optional[int] = None
    #: Paths of its logs, where they were asked for.
    log_paths: Optional[Tuple[str, ...]] = None


@record
class Artifact:
    """One file of a run's record."""

    path: str
    digest: str
    size_bytes: int


@record
class ArtifactList:
    """Artifacts whose blobs are already in the store."""

    artifacts: Tuple[Artifact, ...]


@record
class Count:
    """How many items were taken."""

    count: int


@record
class RunEvent:
    """One step of a run's life."""

    seq: int
    run_id: str
    at: int
    status: str
    reason: Optional[str] = None


@record
class RunPage:
    """A page of runs, newest first."""

    runs: Tuple[Run, ...]
    #: Opaque; given back to read the next page. None: this was the last.
    next_cursor: Optional[str] = None


@record
class RunChange:
    """A user's change of a run's labels; None leaves a field as it is."""

    tags: Optional[Dict[str, str]] = None
    remove_tags: Tuple[str, ...] = ()
    #: Added only: a property that exists cannot change.
    properties: Optional[Dict[str, str]] = None
    display_name: Optional[str] = None
    #: An interactive run's own end: Completed, Failed or Canceled.
    status: Optional[str] = None
    error: Optional[str] = None


@record
class Explanation:
    """What a run waits for, in one sentence, and what would unblock it in another."""

    run_id: str
    status: str
    waits_for: str
    unblocked_by: str = ""
    since: Optional[int] = None
    #: How long it may take, from runs before it, in a sentence; '' where there are none to tell from.
    estimate: str = ""

    @property
    def text(self) -> str:
        """All of it, as a person reads it."""
        since = ""
        if self.since is not None and self.status not in TERMINAL:
            since = f"Since {datetime.fromtimestamp(self.since / 1e6, timezone.utc):%Y-%m-%d %H:%M:%S} UTC."
        helps = f"What helps: {self.unblocked_by}" if self.unblocked_by else ""
        # What helps may be a command: it stands last, so that nothing runs into it.
        return " ".join(one for one in (self.waits_for, since, self.estimate, helps) if one)

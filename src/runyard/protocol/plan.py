"""What control hands to a compute target (LaunchPlan), and what comes back (Observation, Report)."""

from dataclasses import field
from typing import Dict, Optional, Tuple

from runyard.protocol.datasets import Source
from runyard.protocol.distributed import Distribution
from runyard.protocol.environments import Lock
from runyard.protocol.outputs import OutputPlan
from runyard.protocol.record import record
from runyard.protocol.runs import Artifact
from runyard.protocol.selection import Step


@record
class InputPlan:
    """An input, resolved to its sources."""

    name: str
    mode: str
    sources: Tuple[Source, ...]
    path_on_compute: Optional[str] = None
    overwrite: bool = False
    #: True for v1's DataReference: the path itself and not a folder that gathers the sources.
    is_reference: bool = False
    dataset_id: Optional[str] = None
    #: Which of the sources' files are taken.
    steps: Tuple[Step, ...] = ()


@record
class ContainerPlan:
    """How the container of a run is started, where its environment is an image."""

    #: What the user adds to the engine's "run".
    arguments: Tuple[str, ...] = ()
    #: As "2g".
    shm_size: str = ""


@record
class LaunchPlan:
    """Everything a node needs to carry out one attempt, whichever node it is.

    It names no folder, address or token of the server or of a node. What a user wrote stands in it as it is: the path
    of an interpreter or of a local file, and in the lock's options the URL of an index with its password.
    """

    run_id: str
    workspace: str
    experiment: str
    attempt: int
    #: Name of the kit folder that goes on the job's PYTHONPATH.
    kit: str
    lock: Lock
    #: Script and arguments, or a command; variables in it are expanded on the node.
    script: Optional[str]
    command: Tuple[str, ...]
    arguments: Tuple[str, ...]
    snapshot: Optional[str] = None
    inputs: Tuple[InputPlan, ...] = ()
    outputs: Tuple[OutputPlan, ...] = ()
    variables: Dict[str, str] = field(default_factory=dict)
    #: Variables of v1's contract that the run's record decides: ids of workspace and experiment, what git said.
    v1_variables: Dict[str, str] = field(default_factory=dict)
    max_run_duration_s: Optional[int] = None
    #: Seconds between TERM and KILL.
    grace_s: float = 10.0
    #: An attempt that does not reach the server for so long ends itself, since another one may begin; None: none may,
    #: and it goes on.
    fence_s: Optional[float] = None
    target: str = "local"
    target_type: str = "local"
    #: May data be fetched from loopback and private addresses?
    allow_private_urls: bool = False
    #: None: the script runs on the node itself.
    container: Optional[ContainerPlan] = None
    node_count: int = 1
    #: The GPUs of each node that are the run's, by number, as "0,1"; None: whichever its node has.
    gpus: Optional[Tuple[str, ...]] = None
    #: What all processes of a node may take together; None: no limit.
    memory_bytes: Optional[int] = None
    #: How many processes and threads a node's may be at once; None: as many as the node finds wise, 0: no limit.
    processes_max: Optional[int] = None
    #: None: one process.
    distribution: Optional[Distribution] = None


class ObservedState:
    """What a compute target knows of a key."""

    UNKNOWN = "unknown"
    #: In the engine's own queue; ``Observation.detail`` says what for.
    WAITING = "waiting"
    #: The engine did not take it, and will not; ``detail`` says why.
    REFUSED = "refused"
    ALIVE = "alive"
    #: The engine has lost sight of it: it lives as long as its runner is heard of. For engines with a fence: with a
    #: ``fence_s`` of 0 it counts as gone.
    UNSEEN = "unseen"
    GONE = "gone"


@record
class Observation:
    """What was seen of one attempt's runner."""

    key: str
    state: str
    detail: str = ""
    #: Gone with its node, which failed: nothing that the attempt did ended it.
    is_node_lost: bool = False


class ReportKind:
    """What a runner tells; never a status."""

    PREPARING = "preparing"
    STARTED = "started"
    EXITED = "exited"
    STORED = "stored"


class ExitCause:
    """Why an attempt's process ended."""

    SCRIPT = "script"
    CANCELED = "canceled"
    TIME_LIMIT = "time_limit"
    PREPARATION = "preparation"
    RUNNER_LOST = "runner_lost"
    #: Another process of the run failed first.
    PEER = "peer"


@record
class Report:
    """One thing that a runner saw, in the order of ``sequence`` from 1 within an attempt."""

    attempt: int
    sequence: int
    kind: str
    message: str = ""
    exit_code: Optional[int] = None
    cause: Optional[str] = None
    #: For an error: RunError.code and details.
    error_code: str = ""
    details: str = ""
    #: With the last report: files of the record that are stored and not recorded yet, if they are few.
    artifacts: Tuple[Artifact, ...] = ()
    #: When it was seen, by the runner's own clock, microseconds.
    at: Optional[int] = None


@record
class ReportBatch:
    """The reports that a runner sends in one request."""

    reports: Tuple[Report, ...]
    #: When it was sent, by the clock of its reports: how long ago each was seen is certain where no two clocks agree.
    sent_at: Optional[int] = None
    #: Whose reports they are, also where there are none: a runner that another has replaced must hear of it.
    attempt: Optional[int] = None


@record
class ReportReply:
    """What the server answers a runner: how far it has read, and whether to stop."""

    acknowledged: int
    cancel_requested: bool = False


class Isolation:
    """What keeps the jobs of a node apart from its server and from each other."""

    #: Nothing: a job may do what its user may.
    TRUSTED = "trusted"
    #: A user id for each attempt: what is the server's or another run's is closed to it.
    USER = "user"
    #: bubblewrap: of the server's home a job has its own folders alone, and it sees no process but its own.
    HIDDEN = "hidden"


@record
class NodeFacts:
    """What a node's runner must know of its own machine; written by the compute target, never part of a plan."""

    #: Holds envs/, kits/ and caches.
    cache_folder: str
    #: The store's root where node and server share a disk; None: bytes travel over HTTP.
    store_folder: Optional[str]
    #: Root of the datastores' folders where shared.
    datastores_folder: Optional[str]
    #: File that always names the server's present address.
    server_file: Optional[str]
    server_url: str
    node: str
    #: What no job may see but its own part of it, where it is confined: the server's home.
    home_folder: str = ""
    #: An Isolation.
    isolation: str = "trusted"
    #: Where the run's other nodes reach this one.
    address: str = "127.0.0.1"


#: In an attempt's folder, a Launch; there until the attempt is over.
LAUNCH_FILE = "launch.json"


@record
class RemoteLaunch:
    """All that a node is told which has nothing of Runyard: where to fetch it, and what to carry out then."""

    server_url: str
    #: The token of the attempt's run.
    secret: str
    #: Name of the archive that holds the runner, as the server gives it (environments/archive.py).
    archive: str
    plan: LaunchPlan
    #: An Isolation; '': as the node can.
    isolation: str = "trusted"
    #: The node's variable that says which of the attempt's nodes it is, from 0; '': it is the only one.
    number_variable: str = ""
    #: Where the node keeps runners, environments and attempts; variables in it are the node's; '': its user's cache.
    folder: str = ""
    #: Where the server's machine takes packages from, as variables; the node's own go before them.
    index_settings: Dict[str, str] = field(default_factory=dict)
    #: Where a server on this very node writes down its address, which may be another one after a start.
    server_file: Optional[str] = None


@record
class Launch:
    """All that a runner is told of its attempt, in one file that only its owner reads."""

    plan: LaunchPlan
    facts: NodeFacts
    #: The token of the attempt's run.
    secret: str
    #: Which of the attempt's nodes, from 0.
    node: int = 0

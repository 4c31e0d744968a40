"""A web service: as asked (ServiceSpec), as it is (Service), and what its own processes are told (Wanted, Revision)."""

import hashlib
import hmac
import math
import time
from dataclasses import field, replace
from typing import Dict, Mapping, Optional, Tuple
from urllib.parse import quote

from runyard.protocol.environments import EnvironmentSpec
from runyard.protocol.record import record
from runyard.protocol.scoring import THREADS_VARIABLE

#: Of a service's variables, as Azure's own server has it: origins or domains with commas between them, or ``*``, whose
#: pages in a browser may ask it.
ORIGINS_VARIABLE = "AML_CORS_ORIGINS"
#: Files of a service's folder: what its supervisor is told, what it says, why it could not listen, and its log.
WANTED_FILE, SEEN_FILE, REFUSED_FILE, LOG_FILE = "wanted.json", "seen.json", "refused.txt", "log.txt"
#: Files of a revision's folder: what its processes are told, and of that what concerns the model.
REVISION_FILE, SCORING_FILE = "revision.json", "scoring.json"
#: And, where its replicas are runs of a cluster, the run that each of them is.
RUN_FILE = "run.json"
#: A supervisor's exit codes: another one has the service, or another program its port.
SERVICE_TAKEN, PORT_TAKEN = 3, 4


def log_line(sentence: str) -> bytes:
    """What Runyard itself says in a service's log, with the time in UTC."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return f"{stamp} Runyard: {sentence}\n".encode("utf-8", "replace")


class ComputeType:
    """v1's words for where a service runs; here they differ in their defaults alone: see ``Deployment.target``."""

    ACI = "ACI"
    AKS = "AKS"
    LOCAL = "Local"


class ServiceState:
    """v1's words for how a service is."""

    TRANSITIONING = "Transitioning"
    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"
    FAILED = "Failed"
    DELETING = "Deleting"


class Access:
    """Who may ask a service: anyone who reaches it, who has one of its keys, or who has a token of some hours."""

    OPEN = "open"
    KEY = "key"
    TOKEN = "token"


@record
class EntryScript:
    """A script that answers, in its folder and environment."""

    #: Relative to the snapshot.
    script: str
    snapshot: str
    environment: EnvironmentSpec = field(default_factory=EnvironmentSpec)


@record
class Autoscale:
    """How many replicas, by requests in flight."""

    min_replicas: int = 1
    max_replicas: int = 10
    #: Between two looks, seconds.
    refresh_s: float = 1.0
    #: Share of a replica's concurrent requests that should be in use, percent.
    target_utilization: int = 70


@record
class Deployment:
    """How a service is to run."""

    #: The cores whose time a replica has where others want it too; so many threads its framework has. None: no wish,
    #: and one thread.
    cpu: Optional[float] = None
    #: The cores whose time a replica may take; None: all that the host has.
    cpu_limit: Optional[float] = None
    #: What is left to a replica where the host is short of memory, in units of 10^9 bytes; None: no wish.
    memory_gb: Optional[float] = None
    #: A replica that takes more, in the same unit, is started anew; None: nine tenths of the host's.
    memory_gb_limit: Optional[float] = None
    #: Shown again and used for nothing: services compute on processors.
    gpu: Optional[int] = None
    #: An Access; None: open on loopback, else by key.
    access: Optional[str] = None
    replicas: int = 1
    autoscale: Optional[Autoscale] = None
    #: How long a request may work; then it fails, and the replica counts as hung, seconds.
    timeout_s: float = 60.0
    #: How long a request may wait for its turn; then it fails, seconds. None: until it is there.
    wait_s: Optional[float] = None
    #: For autoscale alone: so many requests under way fill a replica, which works at one batch at a time.
    concurrent_requests: int = 1
    #: How many may wait for their turn, a replica.
    queued_requests: int = 1_000
    #: Rows that go to the model together at most; 1: each request by itself.
    batch_rows: int = 64
    #: Share of the requests that are logged, 0 to 1; failed ones always are.
    logged_share: float = 0.0
    #: 0: any that is free.
    port: int = 0
    #: The cluster whose runs the replicas are; '': they are processes of the server's host.
    target: str = ""
    #: What v1 took and means nothing here, as given: it is shown again.
    kept: Dict[str, str] = field(default_factory=dict)


@record
class ServiceSpec:
    """A service as asked."""

    name: str
    compute_type: str = ComputeType.ACI
    #: "name:version" each.
    models: Tuple[str, ...] = ()
    #: None: without code, by the model's framework.
    entry: Optional[EntryScript] = None
    deployment: Deployment = field(default_factory=Deployment)
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    properties: Dict[str, str] = field(default_factory=dict)
    #: Replace a service of that name.
    overwrite: bool = False
    primary_key: Optional[str] = None
    secondary_key: Optional[str] = None


def needs_of(deployment: Deployment) -> Dict[str, Optional[float]]:
    """What a replica is to have, and at most, by v1's names: what the SDK and the server check as numbers above 0."""
    return {
        "cpu_cores": deployment.cpu, "cpu_cores_limit": deployment.cpu_limit, "memory_gb": deployment.memory_gb,
        "memory_gb_limit": deployment.memory_gb_limit,
    }  # fmt: skip


def labelled(spec: ServiceSpec, by: ServiceSpec) -> ServiceSpec:
    """The spec with what is a service's and no revision's own as another has it: its labels, and who may ask."""
    return replace(
        spec, description=by.description, tags=by.tags, properties=by.properties,
        deployment=replace(spec.deployment, access=by.deployment.access),
    )  # fmt: skip


def process_variables(
    app: str, kit: str, models: str, script: str, given: Mapping[str, str], cpu: Optional[float]
) -> Dict[str, str]:
    """What a process with a model has, PATH apart: where its files lie, threads by ``cpu``, and what is ``given``."""
    found = {
        "PYTHONPATH": kit, "PYTHONUNBUFFERED": "1", "HOME": "/tmp", "LANG": "C.UTF-8", "AZUREML_MODEL_DIR": models,
        "AML_APP_ROOT": app, "TF_CPP_MIN_LOG_LEVEL": "2", THREADS_VARIABLE: str(math.ceil(cpu or 1)),
    }  # fmt: skip
    return {**found, **({"AZUREML_ENTRY_SCRIPT": script} if script else {}), **given}


@record
class ServiceChange:
    """What is to be another way: None stays as it is."""

    models: Optional[Tuple[str, ...]] = None
    entry: Optional[EntryScript] = None
    deployment: Optional[Deployment] = None
    description: Optional[str] = None
    tags: Optional[Dict[str, str]] = None
    properties: Optional[Dict[str, str]] = None
    #: Go back to the revision before the present one.
    rollback: bool = False
    #: Start the present revision anew.
    restart: bool = False


@record
class Latency:
    """Of the requests since the service's present processes began, seconds."""

    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    most: float = 0.0


@record
class ServiceStatistics:
    """Counts since the service's present processes began."""

    requests: int = 0
    failed: int = 0
    in_flight: int = 0
    rows: int = 0
    #: Of all its processes: memory now, and the most cores that were in use between two looks.
    memory_bytes: int = 0
    cpu_cores_max: float = 0.0
    latency: Latency = field(default_factory=Latency)


@record
class ServiceReplica:
    """A run of a cluster that holds a service's model."""

    run_id: str
    revision: int
    #: The run's own, and what it waits for.
    status: str
    reason: str = ""
    node: str = ""
    #: Is it connected to its front with the model loaded?
    is_ready: bool = False


@record
class Service:
    """A service as it is."""

    id: str
    workspace: str
    spec: ServiceSpec
    state: str
    created_by: str
    created_at: int
    updated_at: int
    #: Counts the changes of models, script and deployment; and the one that answers, 0: none yet.
    revision: int = 1
    serving_revision: int = 0
    #: Why it is as it is, where that is not plain.
    reason: str = ""
    error: str = ""
    scoring_uri: str = ""
    swagger_uri: str = ""
    replicas: int = 0
    #: Access, as it is where the deployment says nothing.
    access: str = Access.OPEN
    #: What answers: compiled, inside the front or not, the original model, or a script.
    how: str = ""
    statistics: ServiceStatistics = field(default_factory=ServiceStatistics)
    #: Those of a cluster's runs that have not ended.
    replica_runs: Tuple[ServiceReplica, ...] = ()


@record
class ServiceRevision:
    """One of a service's revisions, for those who look back."""

    number: int
    created_by: str
    created_at: int
    spec: ServiceSpec
    #: When it could answer for the first time; None: it never could.
    answered_at: Optional[int] = None


def is_inline(deployment: Deployment) -> bool:
    """May a compiled model run inside the front? Only as the sole replica, and unlimited: a front has no limits."""
    is_bound = deployment.cpu_limit is not None or deployment.memory_gb_limit is not None
    return deployment.replicas == 1 and deployment.autoscale is None and not deployment.target and not is_bound


def first_count(deployment: Deployment) -> int:
    """How many replicas a revision begins with."""
    return deployment.replicas if deployment.autoscale is None else deployment.autoscale.min_replicas


def scoring_path(framework: str, model: str) -> str:
    """Where v1 had callers of that framework post."""
    return f"/v1/models/{quote(model)}:predict" if framework in ("TensorFlow", "TfKeras") else "/score"


@record
class ServiceKeys:
    """Either lets in."""

    primary: str
    secondary: str


@record
class KeyChange:
    """A new key in place of one of the two."""

    #: "Primary" or "Secondary".
    which: str
    #: None: a random one.
    value: Optional[str] = None


def sign_token(token_key: str, expiry: str) -> str:
    """HMAC-SHA256 of a token's expiry, 64 hex digits; the token is ``<expiry, seconds since 1970>.<that>``."""
    return hmac.new(token_key.encode(), expiry.encode(), hashlib.sha256).hexdigest()


def replica_secret(token_key: str, service: str, revision: int, run_id: str) -> str:
    """What the run that is a replica of that revision proves itself with; no token of a caller has this form."""
    return sign_token(token_key, f"replica\n{service}\n{revision}\n{run_id}")


def replica_proof(secret: str, nonce: str) -> str:
    """A replica's answer to a front: it has the secret, which does not travel."""
    return hmac.new(secret.encode(), nonce.encode(), hashlib.sha256).hexdigest()


@record
class ReplicaPlan:
    """What a run that is a replica asks for, by its own token."""

    #: Framework and model, or entry_script; paths are relative to the run's working folder.
    scoring: Dict[str, str]
    variables: Dict[str, str]
    secret: str
    #: Where its front is, on the host by whose name the run reaches the server; 0: it does not listen yet.
    port: int = 0
    #: Does the front speak TLS, with the server's certificate?
    has_tls: bool = False


@record
class ServiceToken:
    """Lets in for some hours; times in microseconds."""

    token: str
    refresh_after: int
    expires_at: int


@record
class Revision:
    """What the processes of one revision are told."""

    number: int
    #: The service's and model's names, as addresses and metrics have them.
    service: str
    model: str
    model_version: str
    #: The model: framework and model, or entry_script; compiled_folder: where its compiled form is kept, or is to be.
    scoring: Dict[str, str]
    #: Its interpreter, working folder and variables; what it may read besides.
    interpreter: str
    work: str
    variables: Dict[str, str] = field(default_factory=dict)
    readable: Tuple[str, ...] = ()
    #: The environment's folder where it is one of ours, so that nobody prunes it; '' where it is not.
    environment: str = ""
    #: Isolation.HIDDEN or another: a sandbox, or none.
    isolation: str = "trusted"
    hidden: Tuple[str, ...] = ()
    #: Which of v1's request shapes its scoring address takes.
    framework: str = "Custom"
    deployment: Deployment = field(default_factory=Deployment)
    #: PROGRAM_FORMAT of the compiled model, and does it rely on that one: can its interpreter load no other? None: it
    #: was prepared before this was said.
    program_format: int = 1
    needs_program: Optional[bool] = None


@record
class Wanted:
    """What a service's own supervisor is to bring about."""

    #: The one that is to answer; an earlier one goes on if it fails.
    revision: int
    #: One that is known to work, to begin with after a restart; 0: none.
    last_good: int
    host: str
    port: int
    access: str = Access.OPEN
    #: SHA-256 of each key that lets in, 64 hex digits; and the key of the tokens' signatures, likewise.
    keys: Tuple[str, ...] = ()
    token_key: str = ""
    certificate: str = ""
    certificate_key: str = ""
    #: A revision whose runs on a cluster have failed, and why: a supervisor sees no run.
    failed_revision: int = 0
    failure: str = ""
    #: Replicas that the revision which answers gives up, so that the next one has a place on their cluster.
    room: int = 0


@record
class JoinedReplicas:
    """The runs of a cluster that are replicas of one revision, as its supervisor sees them."""

    revision: int
    #: Where they come to.
    port: int
    #: How many there should be.
    wanted: int
    #: By their ids: connected, of those with the model loaded; told to end and connected until their last answer; and
    #: those that do not answer any more.
    joined: Tuple[str, ...] = ()
    ready: Tuple[str, ...] = ()
    dismissed: Tuple[str, ...] = ()
    hung: Tuple[str, ...] = ()
    #: Does the revision take no more requests?
    is_leaving: bool = False


@record
class Seen:
    """What a supervisor says of its service."""

    pid: int
    start_time: Optional[int]
    boot_id: str
    #: ServiceState.
    state: str
    port: int = 0
    #: The one that answers; 0: none.
    revision: int = 0
    replicas: int = 0
    #: Of the newest revision that was tried.
    failed_revision: int = 0
    error: str = ""
    statistics: ServiceStatistics = field(default_factory=ServiceStatistics)
    #: Of revisions whose replicas are runs of a cluster.
    elsewhere: Tuple[JoinedReplicas, ...] = ()

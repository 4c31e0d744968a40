"""The tables. Times are the server's UTC in integer microseconds; JSON columns hold wire forms as text."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.schema import SchemaItem

#: Raised with every change of these tables; ``migrations.py`` brings older databases here, newer ones are refused.
SCHEMA = 5

metadata = MetaData()


def _table(name: str, *columns: SchemaItem, sqlite_autoincrement: bool = False) -> Table[Any]:
    """A table whose rows say whose workspace they are in, who made them, and when."""
    owned: tuple[SchemaItem, ...] = (
        Column("workspace", String, nullable=False),
        Column("created_by", String, nullable=False),
        Column("created_at", BigInteger, nullable=False),
    )
    return Table(name, metadata, *owned, *columns, sqlite_autoincrement=sqlite_autoincrement)


schema = Table("schema_number", metadata, Column("number", Integer, primary_key=True))

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("subscription_id", String, nullable=False),
    Column("resource_group", String, nullable=False),
    Column("location", String, nullable=False),
    Column("friendly_name", String, nullable=False),
    Column("description", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

tokens = _table(
    "tokens",
    Column("secret_digest", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("role", String, nullable=False),
    #: '' in ``workspace`` means every workspace.
    Column("run_id", String),
    Column("expires_at", BigInteger),
)

experiments = _table(
    "experiments",
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("tags", Text, nullable=False),
    Column("runs", Integer, nullable=False),
    UniqueConstraint("workspace", "name"),
)

runs = _table(
    "runs",
    Column("row", Integer, primary_key=True),
    Column("id", String, nullable=False, unique=True),
    Column("experiment", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("status", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("retries", Integer, nullable=False),
    Column("target", String, nullable=False),
    Column("parent", String),
    Column("display_name", String, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("reason", Text),
    Column("reason_at", BigInteger),
    #: The id of the present attempt's node, of several the first: all of them name the run in ``nodes``. "local" where
    #: no node of a cluster is counted: on the target of that name, and where the engine's own queue gives nodes.
    Column("node", String),
    #: The compute target's key of the attempt, written before it is started.
    Column("key", String),
    Column("cancel_requested", Boolean, nullable=False),
    Column("exit_code", Integer),
    Column("error", Text),
    Column("warnings", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("lock", String),
    Column("event_seq", Integer, nullable=False),
    #: Reports of the present attempt that control has taken into account.
    Column("report_seq", Integer, nullable=False),
    #: When the present attempt was heard of last, or started.
    Column("heard_at", BigInteger),
    Column("spec", Text, nullable=False),
    Column("node_count", Integer, nullable=False, server_default="1"),
    #: This host's GPUs that the present attempt has, "0,1;2,3" by node; none: all that its host has.
    Column("gpus", Text),
    #: Its place in the queue, as ``turn_of`` says.
    Column("turn", BigInteger, nullable=False, server_default="0"),
    #: When its present attempt came to the queue.
    Column("queued_at", BigInteger),
    Index("runs_by_experiment", "workspace", "experiment", "row"),
    Index("runs_by_parent", "parent"),
    sqlite_autoincrement=True,
)

#: The few runs that still move, and the first of those that wait; found without a scan of all that ever were.
Index("runs_active", runs.c.status, runs.c.target, runs.c.turn, sqlite_where=runs.c.ended_at.is_(None))

run_events = _table(
    "run_events",
    Column("seq", Integer, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("status", String, nullable=False),
    Column("reason", Text),
    Index("run_events_by_run", "run_id", "seq"),
    sqlite_autoincrement=True,
)

node_reports = _table(
    "node_reports",
    Column("run_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("node", Integer, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

reports = _table(
    "reports",
    Column("run_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("body", Text, nullable=False),
)

metric_writers = _table(
    "metric_writers",
    Column("run_id", String, primary_key=True),
    Column("writer", String, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

metric_chunks = _table(
    "metric_chunks",
    Column("id", Integer, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("writer", String, nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("metric_chunks_by_run", "run_id", "name", "id"),
)

metric_latest = _table(
    "metric_latest",
    Column("run_id", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("last", Float),
    Column("minimum", Float),
    Column("maximum", Float),
)

artifacts = _table(
    "artifacts",
    Column("run_id", String, primary_key=True),
    Column("path", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
)

datastores = _table(
    "datastores",
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("root", Text, nullable=False, server_default=""),
    Column("account", Text, nullable=False, server_default=""),
    Column("endpoint", Text, nullable=False, server_default=""),
    #: Credentials, encrypted.
    Column("secret", Text, nullable=False, server_default=""),
    UniqueConstraint("workspace", "name"),
)

datasets = _table(
    "datasets",
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("sources", Text, nullable=False),
    Column("name", String),
    Column("version", Integer),
    Column("description", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("is_registered", Boolean, nullable=False),
    Column("steps", Text, nullable=False, server_default="[]"),
    UniqueConstraint("workspace", "name", "version"),
)

dataset_uses = _table(
    "dataset_uses",
    Column("run_id", String, primary_key=True),
    Column("direction", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("dataset_id", String, nullable=False),
    Index("dataset_uses_by_dataset", "dataset_id"),
)

dataset_files = _table(
    "dataset_files",
    Column("dataset_id", String, primary_key=True),
    Column("url", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String, nullable=False),
    #: The run that saw it first.
    Column("run_id", String, nullable=False),
)

dataset_totals = _table(
    "dataset_totals",
    Column("dataset_id", String, primary_key=True),
    Column("file_count", BigInteger, nullable=False),
    Column("size_bytes", BigInteger),
    #: A JSON list of the files' paths; empty where there were too many.
    Column("names", Text, nullable=False),
    #: The run that saw it first; empty: whoever registered it.
    Column("run_id", String, nullable=False),
)

environments = _table(
    "environments",
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("row", Integer, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("spec_digest", String, nullable=False),
    UniqueConstraint("workspace", "name", "version"),
)

locks = _table(
    "locks",
    Column("spec_digest", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("body", Text, nullable=False),
    Index("locks_by_digest", "digest"),
)

clusters = _table(
    "clusters",
    Column("name", String, nullable=False),
    Column("spec", Text, nullable=False),
    Column("modified_at", BigInteger, nullable=False),
    Column("warnings", Text, nullable=False),
    UniqueConstraint("workspace", "name"),
)

nodes = _table(
    "nodes",
    Column("id", String, primary_key=True),
    Column("cluster", String, nullable=False),
    Column("state", String, nullable=False),
    Column("run_id", String),
    Column("since", BigInteger, nullable=False),
)

models = _table(
    "models",
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("tree", String, nullable=False),
    Column("files", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("tags", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("framework", String, nullable=False),
    Column("framework_version", String),
    Column("resources", Text),
    Column("run_id", String),
    Column("experiment", String),
    Column("datasets", Text, nullable=False),
    #: A deleted version keeps its number, so that it is never given again.
    Column("is_deleted", Boolean, nullable=False),
    UniqueConstraint("workspace", "name", "version"),
    Index("models_by_run", "run_id"),
)

services = _table(
    "services",
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    #: As of ``revision``.
    Column("spec", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    #: The last one that was seen to answer; 0: none.
    Column("good_revision", Integer, nullable=False),
    Column("serving_revision", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("how", Text, nullable=False),
    Column("port", Integer, nullable=False),
    #: Its keys, encrypted.
    Column("secret", Text, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("workspace", "name"),
)

service_revisions = _table(
    "service_revisions",
    Column("service", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("spec", Text, nullable=False),
    #: When it could answer for the first time; NULL: it never could.
    Column("answered_at", BigInteger),
)

#: Runs of a cluster that are, or were, replicas of a service: what a run's labels say of that is anybody's word.
service_replicas = _table(
    "service_replicas",
    Column("run_id", String, primary_key=True),
    Column("service", String, nullable=False),
    Column("revision", Integer, nullable=False),
    #: When it had the model loaded for the first time; NULL: it never had.
    Column("ready_at", BigInteger),
    Index("service_replicas_by_service", "service"),
)

"""From an older schema to this one: one list of statements a step, each carried out whole or not at all."""

import sqlite3

from runyard.db import tables

#: What makes schema N+1 of schema N.
STEPS = {
    1: (
        "ALTER TABLE datastores ADD COLUMN root TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE datastores ADD COLUMN account TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE datastores ADD COLUMN endpoint TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE datastores ADD COLUMN secret TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE datasets ADD COLUMN steps TEXT NOT NULL DEFAULT '[]'",
    ),
    2: (
        "CREATE TABLE dataset_uses (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, "
        "created_at BIGINT NOT NULL, run_id VARCHAR NOT NULL, direction VARCHAR NOT NULL, name VARCHAR NOT NULL, "
        "dataset_id VARCHAR NOT NULL, PRIMARY KEY (run_id, direction, name))",
        "CREATE INDEX dataset_uses_by_dataset ON dataset_uses (dataset_id)",
        "CREATE TABLE dataset_files (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, "
        "created_at BIGINT NOT NULL, dataset_id VARCHAR NOT NULL, url TEXT NOT NULL, size_bytes BIGINT NOT NULL, "
        "sha256 VARCHAR NOT NULL, run_id VARCHAR NOT NULL, PRIMARY KEY (dataset_id, url))",
        # A datastore that somebody registered under such a name stays what it is.
        *(
            "INSERT OR IGNORE INTO datastores (workspace, created_by, created_at, name, kind, is_default) "
            f"SELECT name, created_by, created_at, '{name}', 'folder', 0 FROM workspaces"
            for name in ("workspacefilestore", "workspaceworkingdirectory")
        ),
    ),
    3: (
        "ALTER TABLE runs ADD COLUMN node_count INTEGER NOT NULL DEFAULT '1'",
        "ALTER TABLE runs ADD COLUMN gpus TEXT",
        "ALTER TABLE runs ADD COLUMN turn BIGINT NOT NULL DEFAULT '0'",
        "UPDATE runs SET turn = created_at WHERE ended_at IS NULL",
        "ALTER TABLE runs ADD COLUMN queued_at BIGINT",
        "UPDATE runs SET queued_at = reason_at WHERE status = 'Queued'",
        "DROP INDEX runs_active",
        "CREATE INDEX runs_active ON runs (status, target, turn) WHERE ended_at IS NULL",
        "CREATE TABLE node_reports (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, "
        "created_at BIGINT NOT NULL, run_id VARCHAR NOT NULL, attempt INTEGER NOT NULL, node INTEGER NOT NULL, "
        "revision INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run_id, attempt, node))",
        "CREATE TABLE dataset_totals (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, "
        "created_at BIGINT NOT NULL, dataset_id VARCHAR NOT NULL, file_count BIGINT NOT NULL, size_bytes BIGINT, "
        "names TEXT NOT NULL, run_id VARCHAR NOT NULL, PRIMARY KEY (dataset_id))",
    ),
    4: (
        "CREATE TABLE services (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, created_at BIGINT NOT NULL, "
        "id VARCHAR NOT NULL, name VARCHAR NOT NULL, spec TEXT NOT NULL, revision INTEGER NOT NULL, "
        "good_revision INTEGER NOT NULL, serving_revision INTEGER NOT NULL, state VARCHAR NOT NULL, "
        "reason TEXT NOT NULL, error TEXT NOT NULL, how TEXT NOT NULL, port INTEGER NOT NULL, secret TEXT NOT NULL, "
        "updated_at BIGINT NOT NULL, PRIMARY KEY (id), UNIQUE (workspace, name))",
        "CREATE TABLE service_revisions (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, "
        "created_at BIGINT NOT NULL, service VARCHAR NOT NULL, number INTEGER NOT NULL, spec TEXT NOT NULL, "
        "answered_at BIGINT, PRIMARY KEY (service, number))",
        "CREATE TABLE service_replicas (workspace VARCHAR NOT NULL, created_by VARCHAR NOT NULL, "
        "created_at BIGINT NOT NULL, run_id VARCHAR NOT NULL, service VARCHAR NOT NULL, revision INTEGER NOT NULL, "
        "ready_at BIGINT, PRIMARY KEY (run_id))",
        "CREATE INDEX service_replicas_by_service ON service_replicas (service)",
    ),
}


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """Bring a database of schema ``found`` to the present one, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(found, tables.SCHEMA):
            for statement in STEPS[number]:
                connection.execute(statement)
        connection.execute(f"UPDATE {tables.schema.name} SET number = ?", (tables.SCHEMA,))
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise

"""The schema is a format: a change of it is seen, and gets a number of its own."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from runyard.db.datastores import list_datastores
from runyard.db.engine import SCHEMA_FILE, Database, schema_text
from runyard.db.migrations import STEPS
from runyard.db.tables import SCHEMA
from runyard.db.workspaces import create_workspace
from runyard.errors import VersionMismatchError
from runyard.protocol.workspaces import WorkspaceSpec


def test_kept_schema_is_that_of_the_tables() -> None:
    """Where this fails: raise SCHEMA if databases of the old one exist, and run ``make schema``."""
    assert SCHEMA_FILE.read_text("utf-8") == schema_text()


def test_database_of_another_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Database(tmp_path / "runyard.db").close()
    with sqlite3.connect(tmp_path / "runyard.db") as connection:
        connection.execute("UPDATE schema_number SET number = 99")
    connection.close()
    before = (tmp_path / "runyard.db").read_bytes()
    with pytest.raises(VersionMismatchError, match="schema 99"):
        Database(tmp_path / "runyard.db")
    assert (tmp_path / "runyard.db").read_bytes() == before


def test_database_whose_first_start_broke_off_is_made_whole(tmp_path: Path) -> None:
    """The tables come in one transaction: after a crash there are all or none."""
    text = SCHEMA_FILE.read_text("utf-8")
    connection = sqlite3.connect(tmp_path / "runyard.db", isolation_level=None)
    connection.executescript("BEGIN; " + text[: text.index("CREATE TABLE runs")])
    connection.close()
    database = Database(tmp_path / "runyard.db")
    with database.read() as found:
        assert found.exec_driver_sql("SELECT number FROM schema_number").scalar() == SCHEMA
    database.close()


def test_database_of_the_first_schema_becomes_one_of_this(tmp_path: Path) -> None:
    old, new = sqlite3.connect(tmp_path / "old.db"), tmp_path / "new.db"
    old.executescript((Path(__file__).parent / "schema_1.sql").read_text("utf-8"))
    old.execute("INSERT INTO datastores VALUES ('ws', 'ann', 1, 'workspaceblobstore', 'folder', 1)")
    old.commit()
    old.close()
    Database(tmp_path / "old.db").close()
    Database(new).close()
    assert _columns(tmp_path / "old.db") == _columns(new)
    row = sqlite3.connect(tmp_path / "old.db").execute("SELECT * FROM datastores").fetchone()
    assert row == ("ws", "ann", 1, "workspaceblobstore", "folder", 1, "", "", "", "")


def test_workspace_of_an_older_schema_gets_the_datastores_of_a_new_one(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript((Path(__file__).parent / "schema_1.sql").read_text("utf-8"))
    for name in ("one", "two"):
        old.execute("INSERT INTO workspaces VALUES (?, ?, '', '', '', '', '', '{}', 'ann', 7)", (name, name))
        old.execute("INSERT INTO datastores VALUES (?, 'ann', 7, 'workspaceblobstore', 'folder', 1)", (name,))
    old.execute("INSERT INTO datastores VALUES ('two', 'bob', 9, 'workspacefilestore', 's3', 0)")
    old.commit()
    old.close()
    database = Database(tmp_path / "old.db")
    with database.read() as found:
        stores = {name: list_datastores(found, name) for name in ("one", "two")}
    made = database.write(lambda connection: create_workspace(connection, WorkspaceSpec("new"), "ann", 7))
    with database.read() as found:
        stores["new"] = list_datastores(found, made.name)
    database.close()
    assert stores["one"] == [replace(one, workspace="one") for one in stores["new"]]
    assert [(one.name, one.is_default, one.is_file_share) for one in stores["one"]] == [
        ("workspaceblobstore", True, False),
        ("workspacefilestore", False, True),
        ("workspaceworkingdirectory", False, True),
    ]
    kept = {one.name: (one.created_by, one.kind) for one in stores["two"]}
    assert kept["workspacefilestore"] == ("bob", "s3"), "what somebody registered under that name stays"
    assert kept["workspaceworkingdirectory"] == ("ann", "folder")


def test_migration_that_breaks_off_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript((Path(__file__).parent / "schema_1.sql").read_text("utf-8"))
    old.close()
    before = _columns(tmp_path / "old.db")
    monkeypatch.setitem(STEPS, 1, (*STEPS[1], "ALTER TABLE nowhere ADD COLUMN x"))
    with pytest.raises(sqlite3.OperationalError):
        Database(tmp_path / "old.db")
    assert _columns(tmp_path / "old.db") == before


def _columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Name, type, whether it may be null and default of each column, by table."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    number = connection.execute("SELECT number FROM schema_number").fetchall()
    found = {name: [row[1:5] for row in connection.execute(f"PRAGMA table_info({name})")] for name in sorted(tables)}
    connection.close()
    return {**found, "number": number}

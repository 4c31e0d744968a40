"""The schema is a format: a change of it is seen, and gets a number of its own."""

import sqlite3
from pathlib import Path

import pytest

from runyard.db.engine import SCHEMA_FILE, Database, schema_text
from runyard.errors import VersionMismatchError


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
        assert found.exec_driver_sql("SELECT number FROM schema_number").scalar() == 1
    database.close()

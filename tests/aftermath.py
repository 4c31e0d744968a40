"""What is told beside a failed test: where its server's runs stand, what lives of them, the end of the server's log."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

#: As much of each of the server's logs as is told, lines; and of a process's command, characters.
LOG_LINES, COMMAND_MAX = 40, 200


def aftermath(home: Path) -> str:
    """All that is known there, in lines; '' where no server has ever been. Changes nothing, and never raises."""
    if not (home / "runyard.db").exists():
        return ""
    parts = {"runs that have not ended": _runs(home), "processes of runs": "\n".join(_processes())}
    for log in sorted([home / "server.log", *home.glob("logs/*.log")]):
        parts[log.relative_to(home).as_posix()] = _end(log)
    return "\n".join(f"--- {title}\n{text}" for title, text in parts.items() if text)


def _runs(home: Path) -> str:
    query = "SELECT id, status, attempt, target, key, node, reason, heard_at FROM runs WHERE ended_at IS NULL"
    try:
        with closing(sqlite3.connect(f"file:{home}/runyard.db?mode=ro", uri=True, timeout=5)) as database:
            return "\n".join(str(row) for row in database.execute(query))
    except sqlite3.Error as error:
        return repr(error)


def _processes() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0")
            keys = [one.decode() for one in variables if one.startswith((b"RUNYARD_KEY=", b"RUNYARD_RAY_ATTEMPT="))]
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if keys:
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                waits = (process / "wchan").read_text()
                yield f"{process.name} {state} {waits} {' '.join(keys)}: {command[:COMMAND_MAX]}"


def _end(log: Path) -> str:
    try:
        return "\n".join(log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])
    except OSError as error:
        return repr(error)

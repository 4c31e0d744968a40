"""Which isolation a host's jobs have: as asked, else hidden where bubblewrap confines, else user, else trusted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.environments import confinement
from runyard.environments.confinement import isolation_here, isolation_problem, why_not
from runyard.environments.job_users import why_no_users
from runyard.errors import UserErrorException
from runyard.protocol.plan import Isolation


@pytest.fixture(autouse=True)
def ask_again() -> Iterator[None]:
    found = (why_not, why_no_users, confinement._program)
    for one in found:
        one.cache_clear()
    yield
    for one in found:
        one.cache_clear()


def bubblewrap_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose bubblewrap does that; '': it has none."""
    if does:
        (folder / "bwrap").write_text(f"#!/bin/sh\n{does}\n")
        (folder / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_hidden_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap_that("exit 0", tmp_path, monkeypatch)
    assert (isolation_here(""), isolation_problem("")) == (Isolation.HIDDEN, "")
    assert isolation_here(Isolation.HIDDEN) == Isolation.HIDDEN


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("", "bubblewrap is not installed (Debian: apt install bubblewrap)"),
        (
            "echo bwrap: No permissions to create a new namespace >&2; exit 1",
            "No permissions to create a new namespace",
        ),
        ("exit 3", "exit code 3"),
    ],
)
def test_trusted_where_it_does_not_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, why: str
) -> None:
    bubblewrap_that(does, tmp_path, monkeypatch)
    closed = str(closed_folder(tmp_path) / "home")
    assert isolation_here("", closed) == Isolation.TRUSTED
    assert why in isolation_problem("", closed)
    assert isolation_problem(Isolation.TRUSTED, closed) == "", "as its owner wants it"
    with pytest.raises(UserErrorException, match=r"^RUNYARD_ISOLATION is hidden, and bubblewrap [^\n]*\.$"):
        isolation_here(Isolation.HIDDEN)


def test_trusted_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap_that(f"touch {tmp_path}/asked", tmp_path, monkeypatch)
    assert isolation_here(Isolation.TRUSTED) == Isolation.TRUSTED
    assert not (tmp_path / "asked").exists()


def test_host_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bubblewrap_that(f"echo asked >> {tmp_path}/asked", tmp_path, monkeypatch)
    for _ in range(3):
        isolation_here("")
    assert (tmp_path / "asked").read_text() == "asked\n"


def closed_folder(folder: Path) -> Path:
    (folder / "closed").mkdir(mode=0o700)
    return folder / "closed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give jobs users of their own")
def test_user_where_bubblewrap_does_not_work_and_the_server_is_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bubblewrap_that("exit 3", tmp_path, monkeypatch)
    home = "/var/lib/runyard"
    assert (isolation_here("", home), isolation_problem("", home)) == (Isolation.USER, "")
    assert isolation_here(Isolation.USER, home) == Isolation.USER
    closed = closed_folder(tmp_path)
    with pytest.raises(
        UserErrorException, match=rf"^RUNYARD_ISOLATION is user, and the folder {closed}, above [^\n]*\.$"
    ):
        isolation_here(Isolation.USER, str(closed / "home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give jobs users of their own")
def test_user_ids_that_cannot_be_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, says in (("60000", "is two numbers, such as"), ("0-9", "is two numbers"), ("9-1", "is two numbers")):
        monkeypatch.setenv("RUNYARD_USER_IDS", text)
        with pytest.raises(UserErrorException, match=says):
            isolation_here(Isolation.USER)


def test_user_for_a_server_that_is_not_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserErrorException, match=r"^RUNYARD_ISOLATION is user, and jobs can have users [^\n]*root\.$"):
        isolation_here(Isolation.USER)


@pytest.mark.parametrize("asked", ["", Isolation.TRUSTED])
def test_server_beyond_this_machine_does_not_start_trusted_unless_told(tmp_path: Path, asked: str) -> None:
    home = closed_folder(tmp_path) / "home"
    home.mkdir(mode=0o700)
    variables = {**os.environ, "PATH": str(tmp_path), "RUNYARD_ISOLATION": asked}
    words = [sys.executable, "-m", "runyard.server", "--home", str(home), "--host", "0.0.0.0"]
    if asked:
        # It goes on to what is wrong next.
        (home / "server.lock").mkdir()
    done = subprocess.run([*words, "--insecure"], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    if asked:
        assert "Is a directory" in last
    else:
        assert last.startswith("runyard: Serving on 0.0.0.0, whoever may submit a job could do all that")
        assert last.endswith("install bubblewrap, or set RUNYARD_ISOLATION=trusted if that is meant.")


def test_other_words_are_refused() -> None:
    with pytest.raises(UserErrorException, match="RUNYARD_ISOLATION is hidden, user or trusted, not 'docker'"):
        isolation_here("docker")

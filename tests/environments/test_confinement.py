"""Which isolation a host's jobs have: as asked, else hidden where bubblewrap really confines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.environments import confinement
from runyard.environments.confinement import isolation_here, isolation_problem, why_not
from runyard.errors import UserErrorException
from runyard.protocol.plan import Isolation


@pytest.fixture(autouse=True)
def ask_again() -> Iterator[None]:
    found = (why_not, confinement._program)
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
    assert isolation_here("") == Isolation.TRUSTED
    assert why in isolation_problem("")
    assert isolation_problem(Isolation.TRUSTED) == "", "as its owner wants it"
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


def test_other_words_are_refused() -> None:
    with pytest.raises(UserErrorException, match="RUNYARD_ISOLATION is trusted or hidden, not 'docker'"):
        isolation_here("docker")

"""A machine that is reached over SSH: a real OpenSSH server in a network namespace of its own.

It shares this host's disk and processes, and so the account of who runs the tests; its network can be cut.
"""

import getpass
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PROGRAM = shutil.which("sshd") or "/usr/sbin/sshd"
PORT = 2222

#: For tests that need such a machine.
SSHD = [
    pytest.mark.xdist_group("sshd"),
    pytest.mark.skipif(not os.path.exists(PROGRAM), reason="tests/system-packages.sh installs OpenSSH's server"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace of its own is root's to make"),
]


class SshMachine:
    """The machine; ``server_address`` is this host's as the machine knows it."""

    def __init__(self, folder: Path, name: str, subnet: str) -> None:
        self.folder, self._name = folder, name
        self.server_address, self.address = f"{subnet}.1", f"{subnet}.2"
        self.username = getpass.getuser()
        self.port = PORT
        self.key = folder / "key"
        #: Further lines of its configuration, from its next start on.
        self.settings: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def make_keys(self) -> None:
        """A key of the machine, and one that opens it."""
        for name in ("host_key", "key"):
            make_key(self.folder / name)
        self.admit(self.key)

    def admit(self, key: Path) -> None:
        """From now on that key opens the machine, and no other one does."""
        shutil.copy(f"{key}.pub", self.folder / "authorized_keys")

    def start(self) -> None:
        """Begin to answer."""
        lines = [
            f"Port {PORT}", f"ListenAddress {self.address}", f"HostKey {self.folder}/host_key", "UsePAM no",
            f"PidFile {self.folder}/sshd.pid", f"AuthorizedKeysFile {self.folder}/authorized_keys", "StrictModes no",
            "PasswordAuthentication no", "PermitRootLogin prohibit-password", "LogLevel VERBOSE",
            *self.settings,
        ]  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        # Where it keeps what it gives no rights to.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self._name, PROGRAM, "-D", "-e", "-f", str(self.folder / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        _wait_for(lambda: (self.folder / "sshd.pid").exists(), "sshd answers")

    def kill(self) -> None:
        """End the server and each of its connections at once; what they began goes on."""
        assert self._process is not None
        for pid in self._pids("sshd"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        (self.folder / "sshd.pid").unlink(missing_ok=True)

    def cut(self) -> None:
        """Take its network away: packets vanish, and nobody is told."""
        _ip("link", "set", self._name, "down")

    def mend(self) -> None:
        """Give it its network back."""
        _ip("link", "set", self._name, "up")

    def processes(self, word: str) -> list[int]:
        """Its processes whose command holds that word."""
        return [pid for pid in self._pids() if word.encode() in _read(f"/proc/{pid}/cmdline")]

    def remove(self) -> None:
        """End all that it runs, and take it away."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        subprocess.run(["ip", "netns", "delete", self._name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self._name], check=False, capture_output=True)

    def _pids(self, program: str = "") -> list[int]:
        found = [int(pid) for pid in _ip("netns", "pids", self._name).split()]
        return [pid for pid in found if not program or _read(f"/proc/{pid}/comm").strip() == program.encode()]


@contextmanager
def ssh_machine(folder: Path) -> Iterator[SshMachine]:
    """A machine for a block; nothing of it is left after that."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = SshMachine(folder, *_make_namespace())
    try:
        machine.make_keys()
        machine.start()
        yield machine
    finally:
        machine.remove()


def make_key(path: Path, passphrase: str = "") -> Path:
    """A new private key at that path, and the public one beside it."""
    for old in (path, Path(f"{path}.pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)], check=True)
    return path


def _make_namespace() -> tuple[str, str]:
    """A namespace that no other process has: its name, and the first three numbers of its addresses."""
    for number in itertools.count(os.getpid() % 200):
        name, subnet = f"ryssh{number % 250}", f"10.78.{number % 250}"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        if made.returncode == 0:
            break
        assert number < os.getpid() % 200 + 250, made.stderr.decode()
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("address", "add", f"{subnet}.1/24", "dev", name)
    _ip("link", "set", name, "up")
    _ip("-n", name, "address", "add", f"{subnet}.2/24", "dev", "eth0")
    for link in ("eth0", "lo"):
        _ip("-n", name, "link", "set", link, "up")
    return name, subnet


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _wait_for(is_so: Callable[[], bool], what: str) -> None:
    ends_at = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < ends_at, what
        time.sleep(0.02)

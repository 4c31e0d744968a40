"""A connection to one machine by the system's OpenSSH client: requests go there line by line, and answers come back.

The client reads no configuration of a user, asks nobody, and forwards nothing. Keys and passwords come to it in files
without a name: they are on no disk, on no command line and in no variable.
"""

import json
import os
import re
import select
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from runyard.compute.remote import EngineAwayError
from runyard.errors import ServiceException
from runyard.protocol.record import record

#: How long a machine may take to accept a connection, and to be ready after that, seconds.
CONNECT_S, READY_S = 10, 30.0
#: A connection that is silent for ALIVE_S, ALIVE_TRIES times over, is gone.
ALIVE_S, ALIVE_TRIES = 5, 3
#: How long one answer may take, seconds.
ANSWER_S = 20.0
#: The oldest Python of a machine, as compute/bootstrap.py has it.
OLDEST = (3, 9)
#: What a machine's own login scripts may say before anything of ours, bytes.
NOISE_MAX = 1 << 16

#: All that the far shell is told; it reads the program from its standard input.
_COMMAND = "exec python3 -u -c 'import sys; f = sys.stdin.buffer; exec(f.read(int(f.readline())))'"
#: Variables of the server's own environment that the client needs.
_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "TZ")


#: An answer is a line of some hundred bytes for each attempt, never so many.
LINE_BYTES_MAX = 4 << 20


@record
class Door:
    """A machine, and what lets us in."""

    address: str
    port: int
    username: str
    known_hosts: Path
    #: private_key, private_key_passphrase, password: those that there are, in clear.
    secrets: Mapping[str, str]
    #: Where the machine keeps runners, environments and attempts; '': its user's cache.
    folder: str
    #: Tells this server's attempts there from those of another one.
    mark: str

    @property
    def shown(self) -> str:
        """As a person would write it."""
        return f"{self.username}@{self.address}" + (f":{self.port}" if self.port != 22 else "")


class Line:
    """An open connection. Not for two threads at once."""

    def __init__(self, door: Door) -> None:
        """Connect; EngineAwayError where the machine does not answer, ServiceException where it does not let us in."""
        self._door = door
        self._read = b""
        self._errors = os.fdopen(os.memfd_create("runyard"), "w+b")
        door.known_hosts.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as secrets:
            words, variables = ssh_words(door, secrets)
            try:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=variables, cwd="/",
                    start_new_session=True, bufsize=0,
                )  # fmt: skip
            except OSError as error:
                raise ServiceException(f"The server has no OpenSSH client ({error.strerror}): install ssh.") from None
            try:
                self.about = self._greet()
            except BaseException:
                self.close()
                raise

    def ask(self, request: Dict[str, Any], timeout_s: float = ANSWER_S) -> Dict[str, Any]:
        """What the machine answers; EngineAwayError once the connection is gone, ServiceException where it refuses."""
        self._write(json.dumps(request).encode("ascii") + b"\n")
        reply: Dict[str, Any] = json.loads(self._line(time.monotonic() + timeout_s))
        if "error" in reply:
            raise ServiceException(f"{self._door.shown} could not do it: {reply['error']}.")
        return reply

    def close(self) -> None:
        """End the connection; what was begun there goes on."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def _greet(self) -> Dict[str, Any]:
        program = Path(__file__).with_name("ssh_host.py").read_bytes()
        first = json.dumps({"folder": self._door.folder, "mark": self._door.mark}).encode("ascii")
        self._write(b"%d\n%s%s\n" % (len(program), program, first))
        ends_at = time.monotonic() + CONNECT_S + READY_S
        left = NOISE_MAX
        while left > 0:
            line = self._line(ends_at)
            left -= len(line) + 1
            about = _ready(line, self._door.mark)
            if about is not None:
                if tuple(about["python"]) < OLDEST:
                    raise ServiceException(
                        "python3 of {} is {}.{}; a runner needs 3.9 or newer.".format(
                            self._door.shown, *about["python"]
                        )
                    )
                return dict(about)
        raise ServiceException(f"The login scripts of {self._door.shown} write to every command's output; end that.")

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except OSError:
            raise self._gone() from None

    def _line(self, ends_at: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._read:
            # select() knows no descriptor beyond 1023, which a busy server reaches.
            poller = select.poll()
            poller.register(self._process.stdout, select.POLLIN)
            if not poller.poll(max(0.0, ends_at - time.monotonic()) * 1000):
                raise EngineAwayError(f"{self._door.shown} does not answer.")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise self._gone()
            self._read += data
            if time.monotonic() > ends_at or len(self._read) > LINE_BYTES_MAX:
                raise EngineAwayError(f"{self._door.shown} answers with what is no line.")
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _gone(self) -> ServiceException:
        """Why the client ended."""
        try:
            code = self._process.wait(2)
        except subprocess.TimeoutExpired:
            code = 255
        self._errors.seek(0)
        return refusal(self._door, code, self._errors.read().decode("utf-8", "replace"))


def refusal(door: Door, code: int, said: str) -> ServiceException:
    """What the client's last words mean."""
    last = " ".join((said.strip().splitlines() or [""])[-1].split()).rstrip(".")
    if "HOST IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said:
        return ServiceException(
            f"The host key of {door.address} is not the one that it had when this server first saw it: if the machine "
            f"was set up anew, remove its line from {door.known_hosts}; else somebody else may answer in its place."
        )
    if "Load key" in said or "passphrase" in said:
        return ServiceException(
            f"The private key for {door.shown} cannot be read: give the key that ssh itself takes, and its passphrase."
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        what, check = "key", "name, the key and its passphrase"
        if "password" in door.secrets:
            what, check = "password", "name and the password"
        return ServiceException(f"{door.shown} does not let this server in with that {what}: check the user's {check}.")
    if code != 255:
        return ServiceException(f"{door.shown} could not run python3 (exit {code}): {last or 'it said nothing'}.")
    return EngineAwayError(f"{door.shown} cannot be reached: {last or 'the connection was lost'}.")


def ssh_words(door: Door, secrets: ExitStack) -> Tuple[List[str], Dict[str, str]]:
    """The client's command and its variables; what it reads of us stays there until ``secrets`` is closed."""
    variables = {name: text for name, text in os.environ.items() if name in _KEPT}
    # Its words are looked at.
    variables["LC_ALL"] = "C"
    hosts = str(door.known_hosts).replace("%", "%%")
    options = [
        "StrictHostKeyChecking=accept-new", f'UserKnownHostsFile="{hosts}"', "GlobalKnownHostsFile=none",
        "UpdateHostKeys=no", "LogLevel=ERROR", f"ConnectTimeout={CONNECT_S}", f"ServerAliveInterval={ALIVE_S}",
        f"ServerAliveCountMax={ALIVE_TRIES}", "ClearAllForwardings=yes", "ControlPath=none", "IdentityAgent=none",
        "NumberOfPasswordPrompts=1", "PermitLocalCommand=no",
    ]  # fmt: skip
    words = ["ssh", "-F", "none", "-T", "-a", "-x"]
    key = door.secrets.get("private_key")
    if key is not None:
        words += ["-i", _file(key, 0o600, secrets)]
        options += ["IdentitiesOnly=yes", "PreferredAuthentications=publickey"]
    else:
        options += ["PubkeyAuthentication=no", "PreferredAuthentications=password,keyboard-interactive"]
    asked = door.secrets.get("private_key_passphrase" if key is not None else "password")
    if asked is None:
        options.append("BatchMode=yes")
    else:
        variables["RUNYARD_SAID"] = _file(asked + "\n", 0o600, secrets)
        variables["SSH_ASKPASS"] = _file('#!/bin/sh\nexec cat "$RUNYARD_SAID"\n', 0o700, secrets)
        variables["SSH_ASKPASS_REQUIRE"] = "force"
    for option in options:
        words += ["-o", option]
    return [*words, "-l", door.username, "-p", str(door.port), "--", door.address, _COMMAND], variables


def _file(text: str, mode: int, held: ExitStack) -> str:
    """Path of a file without a name on any disk, which only this user's processes can open, while it is held."""
    number = os.memfd_create("runyard")
    held.callback(os.close, number)
    os.fchmod(number, mode)
    os.write(number, text.encode("utf-8"))
    return f"/proc/{os.getpid()}/fd/{number}"


def _ready(line: bytes, mark: str) -> Any:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("ready") == mark else None


def check_words(address: str, username: str, port: str) -> Sequence[str]:
    """What is wrong with a machine's address, user and port, a sentence each."""
    wrong = []
    if not re.fullmatch(r"[A-Za-z0-9_:][A-Za-z0-9_.:\-]{0,252}", address):
        wrong.append(f"The address of a machine is its name or number, as gpu7.example.org, not {address[:80]!r}.")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+\\\-]{0,63}\$?", username):
        wrong.append(f"The username is that of an account on the machine, not {username[:80]!r}.")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        wrong.append(f"The ssh_port is a number from 1 to 65535, not {port[:20]!r}.")
    return wrong

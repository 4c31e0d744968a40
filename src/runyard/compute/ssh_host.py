"""What answers at the far end of an SSH connection: it begins the supervisors of attempts, looks at them, signals them.

It goes there as text (compute/ssh_line.py), and so imports the standard library alone. It reads a request a line and
answers each with a line. It ends with its connection; what it has begun goes on.
"""

import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from typing import Any, Dict, Iterator, List, Optional

#: What is known of an attempt is forgotten after this time, once nothing of it is alive, seconds.
KEPT_S = 7 * 86_400.0
#: How long the server may take to answer from here, seconds.
REACH_S = 10.0
#: How much of what a supervisor said is told when it is gone, characters.
SAID_MAX = 400


def main() -> None:
    """Answer until the connection ends; the first line says where things lie here."""
    asked = json.loads(sys.stdin.buffer.readline())
    attempts = Attempts(str(asked["folder"]), str(asked["mark"]))
    say({"ready": asked["mark"], "python": list(sys.version_info[:2]), "host": socket.gethostname()})
    for line in iter(sys.stdin.buffer.readline, b""):
        try:
            reply = attempts.answer(json.loads(line))
        except OSError as error:
            reply = {"error": str(error)}
        say(reply)


def say(reply: Dict[str, Any]) -> None:
    """One line to the server."""
    sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


class Attempts:
    """The attempts that one server has begun here: for each key a record of its supervisor, and what that has said."""

    def __init__(self, folder: str, mark: str) -> None:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        place = os.path.expandvars(os.path.expanduser(folder)) if folder else os.path.join(caches, "runyard", "node")
        self.root = os.path.abspath(place)
        self.folder = os.path.join(self.root, "ssh-" + mark)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self._forget_old()

    def answer(self, asked: Dict[str, Any]) -> Dict[str, Any]:
        """What is asked for, done."""
        reap()
        does = asked["do"]
        if does == "reach":
            return {"problem": reach(asked["url"])}
        if does == "start":
            self.start(asked["key"], asked["program"], asked["runner"])
        elif does == "signal":
            self.signal(asked["key"], asked["how"])
        return {"seen": {key: self.look(key) for key in asked.get("keys", ())}}

    def start(self, key: str, program: str, runner: str) -> None:
        """Begin a supervisor, unless one was begun for that key ever; ``runner``: where its runner says who it is."""
        if os.path.exists(self._path(key)):
            return
        # No two attempts of a run go on beside each other, whatever was heard of the earlier one.
        for other in self._attempts_of(key.rpartition("/")[0]):
            self.signal(other, "end")
        heard, tells = os.pipe()
        if os.fork() == 0:
            try:
                self._become(key, program, runner)
            except BaseException as error:  # noqa: BLE001 - a copy of this process must not go on
                os.write(tells, str(error).encode("utf-8", "replace"))
            finally:
                os._exit(1)
        os.close(tells)
        with os.fdopen(heard, "rb") as file:
            # It ends when the program has taken over, or the copy is gone.
            said = file.read().decode("utf-8")
        if said and not os.path.exists(self._path(key)):
            raise OSError(said)

    def look(self, key: str) -> Dict[str, str]:
        """Is anything alive that carries the attempt out? Where nothing is, what it has left is ended."""
        known = read(self._path(key))
        if known is None:
            return {"state": "unknown"}
        if is_alive(known) or is_alive(self._runner(known)):
            return {"state": "alive"}
        for pid in marked(key):
            send(pid, signal.SIGKILL)
        why = "ended" if known["boot_id"] == boot_id() else "restarted"
        return {"state": "gone", "why": why, "said": self._said(key), "log": self._path(key, ".log")}

    def signal(self, key: str, how: str) -> None:
        """``stop``: its processes may end by themselves. ``kill``: its runner is replaced. ``end``: all of it, now."""
        known = read(self._path(key))
        if known is None:
            return
        runner = self._runner(known)
        if how == "stop":
            found = [one["pid"] for one in (known, runner) if is_alive(one)][:1]
        elif how == "kill" and is_alive(known):
            found = [runner["pid"]] if is_alive(runner) else []
        else:
            heads = [one["pid"] for one in (known, runner) if is_alive(one)]
            # The supervisor first: it would begin another runner.
            found = [*heads, *descendants(heads), *marked(key)]
        for pid in found:
            send(pid, signal.SIGTERM if how == "stop" else signal.SIGKILL)

    def _become(self, key: str, program: str, runner: str) -> None:
        """Let go of the connection, write down who this process is, and be the attempt's supervisor from now on."""
        os.setsid()
        log = os.open(self._path(key, ".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # A file without a name: a token is in it.
        with tempfile.TemporaryFile() as told:
            told.write(program.encode("utf-8"))
            told.seek(0)
            for here, there in ((told.fileno(), 0), (log, 1), (log, 2)):
                os.dup2(here, there)
        self._keep(key, {"pid": os.getpid(), "start_time": start_time(os.getpid()), "runner": runner})
        os.chdir("/")
        variables = {name: text for name, text in os.environ.items() if not name.startswith("SSH_")}
        os.execve(sys.executable, [sys.executable, "-", "runyard-supervise"], variables)

    def _keep(self, key: str, record: Dict[str, Any]) -> None:
        """FileExistsError where another process is the attempt's supervisor already."""
        path = self._path(key)
        new = f"{path}.{os.getpid()}"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps(dict(record, boot_id=boot_id())))
        try:
            # A link never replaces a file.
            os.link(new, path)
        finally:
            os.unlink(new)

    def _runner(self, known: Dict[str, Any]) -> Dict[str, Any]:
        return read(os.path.join(self.root, known["runner"])) or {}

    def _said(self, key: str) -> str:
        try:
            with open(self._path(key, ".log"), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4 * SAID_MAX))
                return " ".join(file.read().decode("utf-8", "replace").split())[-SAID_MAX:]
        except OSError:
            return ""

    def _attempts_of(self, run_id: str) -> List[str]:
        start = urllib.parse.quote(run_id + "/", "")
        found = [name[:-5] for name in os.listdir(self.folder) if name.startswith(start) and name.endswith(".json")]
        return [urllib.parse.unquote(name) for name in found]

    def _path(self, key: str, suffix: str = ".json") -> str:
        return os.path.join(self.folder, urllib.parse.quote(key, "") + suffix)

    def _forget_old(self) -> None:
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if os.stat(path).st_mtime < time.time() - KEPT_S:
                known = read(os.path.splitext(path)[0] + ".json") or {}
                if not is_alive(known):
                    os.unlink(path)


def reach(url: str) -> str:
    """Why the server cannot be reached from here at that address; '' where it can."""
    try:
        with urllib.request.urlopen(url, timeout=REACH_S):
            return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def read(path: str) -> Optional[Dict[str, Any]]:
    """The record in that file; None where there is none."""
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def boot_id() -> str:
    """Changes with every start of the machine."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_time(pid: int) -> Optional[int]:
    """When the process started; None if there is none, or only a zombie."""
    found = stat(pid)
    return None if found is None or found[0] == "Z" else int(found[19])


def is_alive(known: Dict[str, Any]) -> bool:
    """Is the very process of that record still running?"""
    if not known.get("pid") or not known.get("start_time") or known.get("boot_id") != boot_id():
        return False
    return bool(start_time(known["pid"]) == known["start_time"])


def stat(pid: int) -> Optional[List[str]]:
    """What the kernel tells of a process, from its state on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("ascii", "replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def pids() -> Iterator[int]:
    """Every process of this machine."""
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def descendants(heads: List[int]) -> List[int]:
    """Every process below those."""
    parents = {pid: int(found[1]) for pid, found in ((pid, stat(pid)) for pid in pids()) if found is not None}
    below: List[int] = []
    level = list(heads)
    while level:
        level = [pid for pid, parent in parents.items() if parent in level]
        below.extend(level)
    return below


def marked(key: str) -> Iterator[int]:
    """Processes of the attempt's script, as far as we may look; its runner has put the key and a folder there."""
    wanted = b"\0RUNYARD_KEY=" + key.encode("utf-8") + b" "
    for pid in pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if wanted in b"\0" + file.read():
                    yield pid
        except OSError:
            continue


def send(pid: int, number: int) -> None:
    """Signal a process, unless it is gone or not ours."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def reap() -> None:
    """Collect what was begun here and has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()

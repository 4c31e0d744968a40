"""Mounts an input where that can be, and unmounts it however the attempt ends."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator, List, Mapping, Optional, Sequence, Tuple

from runyard.protocol.mounted import MountedFile, MountedInput
from runyard.protocol.wire import dumps
from runyard.runner.folder import AttemptFolder

Warn = Callable[[str], None]

#: How long a server that is away is waited for, seconds.
PATIENCE_S = 600.0
#: How long a mount may take to be there, and to be gone, seconds.
MOUNT_S, UNMOUNT_S = 20.0, 5.0
#: The kernel's side of user-space file systems.
DEVICE = "/dev/fuse"
#: Ways to unmount, the politest first; the later ones take a mount away that is in use, or whose process is gone.
_UNMOUNT = (["fusermount3", "-u", "-q"], ["fusermount3", "-u", "-q", "-z"], ["umount", "-l"])


def spec_file(folder: AttemptFolder, name: str) -> Path:
    """What the process that serves the input is told."""
    return folder.path / f"mount-{name}.json"


def why_not() -> str:
    """Why this machine cannot mount; '' where it can."""
    if not os.path.exists(DEVICE):
        return f"there is no {DEVICE}"
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return f"{DEVICE} is not open to this user"
    try:
        import mfusepy  # noqa: F401 - does it find libfuse?
    except (ImportError, OSError, AttributeError) as error:
        return f"libfuse is missing ({error})"
    return ""


def mount(folder: AttemptFolder, name: str, files: Sequence[MountedFile], warn: Warn) -> str:
    """Mount these files at the input's folder; returns '' or why it could not be, and then nothing is left of it.

    ``warn`` gets a sentence if the process that serves it ends before it is unmounted.
    """
    target = folder.inputs / name
    target.mkdir(parents=True, exist_ok=True)
    told = MountedInput(tuple(files), folder.plan.workspace)
    spec_file(folder, name).write_text(dumps(told))
    # What ends the attempt's processes finds it by its key; what stops the runner passes it by.
    process, reason = serve([str(folder.path), name], str(target), {"RUNYARD_KEY": folder.key})
    if process is not None:
        _served.append((process, name, warn))
    return reason


def serve(
    words: Sequence[str], target: str, variables: Mapping[str, str]
) -> "Tuple[Optional[subprocess.Popen[bytes]], str]":
    """Start the process that serves a mount at ``target``; returns it, or None and why the mount is not there."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "runyard.runner.mounted", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        ends_at = time.monotonic() + MOUNT_S
        while time.monotonic() < ends_at and process.poll() is None:
            if os.path.ismount(target):
                _read_further_ahead(target)
                return process, ""
            time.sleep(0.01)
        process.kill()
        process.wait()
        unmount(target)
        log.seek(0)
        told = log.read().decode("utf-8", "replace").strip().splitlines()
        return None, told[-1] if told else f"it was not there after {MOUNT_S:.0f} seconds"


def unmount(target: str) -> bool:
    """Unmount it, politely where that can be; False where it is no mount."""
    return any(_succeeds([*words, target]) for words in _UNMOUNT)


def wait_for_end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process whose mount is gone."""
    try:
        process.wait(UNMOUNT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def unmount_all(folder: AttemptFolder) -> None:
    """Unmount whatever is mounted below the attempt's inputs, by this runner or by one that is gone."""
    if not any(name.startswith("mount-") for name in os.listdir(str(folder.path))):
        return
    _tell_dead()
    for target in list(_mounted_below(os.path.realpath(str(folder.inputs)))):
        unmount(target)
    while _served:
        wait_for_end(_served.pop()[0])


def _tell_dead() -> None:
    """Say which processes have ended before their time: a script learns from its read errors no more than a number."""
    for process, name, warn in _served:
        if process.poll() is not None:
            how = f"was killed by signal {-process.returncode}" if process.returncode < 0 else "ended"
            warn(
                f"Input {name!r}: the process that served its mount {how} before the script had ended (out of memory, "
                "or by someone); what was read of it after that failed."
            )


def _succeeds(words: List[str]) -> bool:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    return done.returncode == 0


#: The processes that serve this runner's attempt, of which input, and whom their end is told.
_served: "List[Tuple[subprocess.Popen[bytes], str, Warn]]" = []


def _mounted_below(folder: str) -> Iterator[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # proc(5): blanks, tabs, newlines and backslashes stand as octal numbers.
            target = re.sub(r"\\(\d{3})", lambda found: chr(int(found.group(1), 8)), line.split(" ")[4])
            if target.startswith(folder + os.sep):
                yield target


def _read_further_ahead(target: str) -> None:
    """Let the kernel ask for a megabyte at once, where this user may say so; it asks for an eighth by itself."""
    device = os.stat(target).st_dev
    try:
        with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb", "w") as file:
            file.write("1024")
    except OSError:
        pass

"""The GPUs of this host, and who uses them: asked of NVIDIA's own program, since a driver in trouble hangs it alone."""

import logging
import os
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from typing import Dict, List, Optional, Protocol, Sequence, Tuple

from runyard.protocol.record import record

#: What was seen holds for so long, seconds: to ask takes a tenth of one, and some where no driver stays loaded.
FRESH_S = 2.0
#: How long until a driver is asked again that did not answer at first, seconds: it may still be loading.
RETRY_S = 30.0
#: A driver that does not answer in this time is in trouble, seconds.
ANSWER_S = 15.0
#: How its program says that it works, and that there is nothing for it.
_NONE = "No devices were found"
#: Most that is told of what its program said, characters.
SAID_MAX = 200
#: Memory beyond this, and beyond the part, is somebody's: a screen and the driver itself need less, bytes.
UNUSED_BYTES, UNUSED_PART = 1 << 30, 0.05

_log = logging.getLogger("runyard.compute")


@record
class Gpu:
    """A GPU of this host."""

    index: int
    uuid: str
    memory_bytes: int
    used_bytes: int = 0
    #: Processes that compute on it.
    holders: Tuple[int, ...] = ()

    @property
    def user(self) -> str:
        """What uses it, as "process 4242"; '' where nothing does."""
        if self.holders:
            return "process " + ", ".join(map(str, self.holders[:3]))
        if self.used_bytes > max(UNUSED_BYTES, self.memory_bytes * UNUSED_PART):
            return "something unseen"
        return ""


class Gpus(Protocol):
    """Knows this host's GPUs."""

    @property
    def trouble(self) -> str:
        """Why they did not answer when they were asked last; '' where they did, or this host has none."""

    def list(self, may_be_old: bool = False) -> Sequence[Gpu]:
        """Every one that runs may have, by index. Never raises, and may block for a moment, unless who uses them may be
        as it was before."""


class NvidiaGpus:
    """NVIDIA's, as nvidia-smi shows them; of them those that this process itself may see."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_at: Optional[float] = None
        self._found: Tuple[Gpu, ...] = ()
        self._trouble = ""
        self._asking: Optional[threading.Thread] = None

    @property
    def trouble(self) -> str:
        return self._trouble

    def list(self, may_be_old: bool = False) -> Sequence[Gpu]:
        with self._lock:
            age_s = time.monotonic() - (self._asked_at or 0.0)
            is_old = age_s > FRESH_S if self._found else bool(self._trouble) and age_s > RETRY_S
            if self._asked_at is None:
                self._look()
            elif is_old and not may_be_old and self._asking is None:
                if not self._trouble:
                    self._look()
                else:
                    # It may hang again, and no run waits for that which needs no GPU.
                    self._asking = threading.Thread(target=self._look_beside, name="gpus", daemon=True)
                    self._asking.start()
            return self._found

    def _look_beside(self) -> None:
        self._look()
        self._asking = None

    def _look(self) -> None:
        try:
            gpus = _ask("--query-gpu=index,uuid,memory.total,memory.used")
            processes = _ask("--query-compute-apps=gpu_uuid,pid") if gpus.strip() else ""
            self._found, self._trouble = visible(parse(gpus, processes), os.environ.get("CUDA_VISIBLE_DEVICES")), ""
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            self._fail(error)
        self._asked_at = time.monotonic()

    def _fail(self, error: Exception) -> None:
        why = _why(error)
        # A host without the program has no GPU; with it, whoever looks after the host should know.
        if not self._found and (shutil.which("nvidia-smi") is None or _NONE in why):
            self._trouble = ""
            return
        self._trouble = why
        self._found = tuple(replace(one, used_bytes=one.memory_bytes, holders=()) for one in self._found)
        _log.warning("no run gets a GPU of its own until they can be asked: %s", self._trouble)


def parse(gpus: str, processes: str) -> Tuple[Gpu, ...]:
    """GPUs of the lines of nvidia-smi's two answers; memory in MiB."""
    holders: Dict[str, List[int]] = {}
    for line in processes.splitlines():
        uuid, _, pid = line.partition(",")
        if pid.strip().isdigit():
            holders.setdefault(uuid.strip(), []).append(int(pid))
    found = []
    for line in gpus.splitlines():
        if line.strip():
            index, uuid, total, used = (one.strip() for one in line.split(","))
            # One whose memory is the host's own says [N/A].
            size, taken = (int(one) << 20 if one.isdigit() else 0 for one in (total, used))
            found.append(Gpu(int(index), uuid, size, taken, tuple(sorted(holders.get(uuid, ())))))
    return tuple(sorted(found, key=lambda one: one.index))


def visible(gpus: Sequence[Gpu], wanted: Optional[str]) -> Tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or by the beginning of their UUID; None: all."""
    if wanted is None:
        return tuple(gpus)
    names = [one.strip() for one in wanted.split(",") if one.strip()]
    return tuple(
        one
        for one in gpus
        if any(name == str(one.index) or (name[:3] == "GPU" and one.uuid.startswith(name)) for name in names)
    )


def _why(error: Exception) -> str:
    """What is wrong with NVIDIA's program, in words."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"nvidia-smi did not answer within {ANSWER_S:g} seconds"
    if isinstance(error, subprocess.CalledProcessError):
        said = " ".join(f"{error.stdout or ''} {error.stderr or ''}".split())[:SAID_MAX].rstrip(".")
        return f"nvidia-smi ended with exit code {error.returncode}" + (f", saying {said!r}" if said else "")
    return f"nvidia-smi could not be understood: {error}" if isinstance(error, ValueError) else f"nvidia-smi: {error}"


def _ask(query: str) -> str:
    words = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER_S, check=True
    ).stdout

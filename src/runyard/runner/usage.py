"""What a run's processes take of their node, looked at while they run: CPU, memory, and the GPUs that are the run's.

One pass over /proc a look, and one call of nvidia-smi where the run has GPUs; kept with the record of the run, but not
among its own metrics.
"""

import os
import shutil
import subprocess
import threading
import time
from array import array
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from runyard.client.http import Server
from runyard.errors import RunyardError, ServiceException
from runyard.files.processes import ProcessTable
from runyard.protocol.metrics import NO_STEP, USAGE_PREFIX, Batch, Columns, encode_batch
from runyard.runner.folder import AttemptFolder
from runyard.runner.tidy import read_kept
from runyard.runner.warn import warn

#: Between two looks, and how many are sent at once; each look costs a few milliseconds.
SAMPLE_S, SENT_AT_ONCE = 10.0, 6
#: Most looks that wait for a server that is away: a day's.
KEPT_MAX = 8_640
#: How long the end of a run waits for the last look to be sent, seconds.
END_S = 2.0
#: GPUs that did nothing for so many minutes are told of; 0: never. A variable of the run, or else of its node.
IDLE_VARIABLE, IDLE_MINUTES = "RUNYARD_GPU_IDLE_MINUTES", 30
#: A GPU that does less than this is idle, percent.
IDLE_PERCENT = 1.0
#: A driver that does not answer in this time is in trouble, seconds.
ANSWER_S = 15.0

_QUERY = "--query-gpu=index,uuid,memory.used,utilization.gpu"

#: Number of a GPU: how busy it is, percent, and how much of its memory is taken, bytes.
_Gpus = Dict[str, Tuple[float, float]]


class Usage:
    """The looks at one node's part of an attempt, in a thread of its own."""

    def __init__(self, folder: AttemptFolder, server: Server) -> None:
        self._folder = folder
        self._server = server
        self._writer = f"usage-{folder.node}-{os.urandom(4).hex()}"
        self._sequence = 0
        #: (when, UTC microseconds, values by name)
        self._kept: List[Tuple[int, Dict[str, float]]] = []
        # Of the processes of earlier attempts; there is none yet of this one's that has ended.
        times = os.times()
        self._before = (time.monotonic(), times.children_user + times.children_system)
        self._gpus = _wanted(folder)
        self._idle_since: Optional[float] = time.monotonic()
        self._idle_limit_s = _idle_limit_s(folder)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="usage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; what was seen is sent."""
        self._ended.set()
        self._thread.join(END_S)

    def _work(self) -> None:
        try:
            while not self._ended.wait(SAMPLE_S):
                self._look()
                # The first at once, so that there is something to see.
                if len(self._kept) >= SENT_AT_ONCE or not self._sequence:
                    self._send()
            if self._kept:
                self._send()
        except (RunyardError, OSError) as error:
            self._folder.say(f"what it takes is not recorded any more: {error}")

    def _look(self) -> None:
        now, (cpu_s, memory_bytes) = time.monotonic(), ProcessTable().usage_below(os.getpid())
        passed_s, used_s = now - self._before[0], cpu_s - self._before[1]
        self._before = now, cpu_s
        values = {"cpu_percent": max(0.0, used_s / passed_s * 100), "memory_bytes": float(memory_bytes)}
        gpus = _look_at_gpus(self._gpus)
        root = Path(self._folder.facts.cache_folder)
        values["disk_free_bytes"] = float(shutil.disk_usage(root).free)
        kept = read_kept(root).get("environments_bytes")
        if kept is not None:
            values["environments_bytes"] = float(kept)
        for number, (percent, used_bytes) in gpus.items():
            values[f"gpu_{number}_percent"], values[f"gpu_{number}_memory_bytes"] = percent, used_bytes
        self._kept = [*self._kept, (time.time_ns() // 1000, values)][-KEPT_MAX:]
        self._watch_idle(gpus, now)

    def _watch_idle(self, gpus: _Gpus, now: float) -> None:
        """Say once that the run's GPUs do nothing; it keeps them."""
        if not gpus or any(percent > IDLE_PERCENT for percent, _ in gpus.values()):
            self._idle_since = None
            return
        self._idle_since = self._idle_since or now
        if self._idle_limit_s and now - self._idle_since >= self._idle_limit_s:
            which = "GPU {} was".format(*gpus) if len(gpus) == 1 else "GPUs {} were".format(", ".join(gpus))
            where = f" on node {self._folder.node}" if self._folder.plan.node_count > 1 else ""
            text = f"{which} idle for {self._idle_limit_s / 60:g} minutes{where}; the run keeps them until it ends."
            self._idle_limit_s = 0.0
            warn(self._folder, self._server, text)

    def _send(self) -> None:
        """Bring what was seen to the server; what is away is tried again with the next looks."""
        columns, sequence = [], self._sequence
        for name in sorted({name for _, values in self._kept for name in values}):
            found = [(at, values[name]) for at, values in self._kept if name in values]
            times, numbers = array("q", [at for at, _ in found]), array("d", [value for _, value in found])
            key = f"{USAGE_PREFIX}{self._folder.node}/{name}"
            steps = array("q", [NO_STEP] * len(found))
            columns.append(Columns(key, self._writer, sequence + 1, steps, times, numbers))
            sequence += len(found)
        plan = self._folder.plan
        batch = Batch(self._writer, plan.attempt, self._sequence + 1, sequence, tuple(columns))
        try:
            self._server.call("add_metrics", encode_batch(batch), workspace=plan.workspace, run_id=plan.run_id)
        except ServiceException as error:
            self._folder.say(f"usage: {error}")
            return
        # A repeated batch whose first answer was lost is taken for a replay, so that looks are lost and never doubled.
        self._sequence, self._kept = sequence, []


def _idle_limit_s(folder: AttemptFolder) -> float:
    for place in (folder.plan.variables, os.environ):
        try:
            return max(0.0, float(place[IDLE_VARIABLE])) * 60.0
        except (KeyError, ValueError):
            continue
    return IDLE_MINUTES * 60.0


def _wanted(folder: AttemptFolder) -> Optional[List[str]]:
    """The GPUs of this node that are the run's, by number or UUID; None: all that there are."""
    if shutil.which("nvidia-smi") is None:
        return []
    given = folder.plan.gpus
    text = os.environ.get("CUDA_VISIBLE_DEVICES") if given is None else given[folder.node]
    return None if text is None else [one.strip() for one in text.split(",") if one.strip()]


def _look_at_gpus(wanted: Optional[List[str]]) -> _Gpus:
    """Those of the run; none where the driver is in trouble."""
    if wanted == []:
        return {}
    command = ["nvidia-smi", _QUERY, "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=ANSWER_S
        ).stdout.decode("ascii", "replace")
    except (OSError, subprocess.SubprocessError):
        return {}
    gpus = {}
    for line in found.splitlines():
        index, uuid, used_mib, percent = ([one.strip() for one in line.split(",")] + [""] * 4)[:4]
        is_ours = wanted is None or any(one == index or (one[:3] == "GPU" and uuid.startswith(one)) for one in wanted)
        # A part of a card says [N/A].
        if is_ours and percent.isdigit() and used_mib.isdigit():
            gpus[index] = float(percent), float(int(used_mib) << 20)
    return gpus

"""What an engine beside this host shows of its attempts, looked at in the background: control never waits for it."""

import threading
import time
from typing import Callable, Dict, List, Mapping, Optional, Sequence

from runyard.compute.remote import EngineAwayError
from runyard.errors import ServiceException
from runyard.protocol.plan import Observation, ObservedState

#: Between two looks while there is anything to see, seconds; ends come as the runners' own reports.
LOOK_S = 2.0


class Watch:
    """The last thing that was seen of each attempt."""

    def __init__(self, name: str, look: Callable[[Sequence[str]], Mapping[str, Observation]]) -> None:
        """``look`` asks the engine for attempts by their keys: EngineAwayError where it does not answer.

        A key that it leaves out is one that the engine does not know.
        """
        self._name = name
        self._ask = look
        self._lock = threading.Lock()
        self._seen: Dict[str, Observation] = {}
        #: When the look began whose result is here; 0: none yet.
        self._seen_at = 0.0
        #: When each key was last started: no look from before that tells of it.
        self._expected: Dict[str, float] = {}
        self._keys: List[str] = []
        self._asked_at = 0.0
        self._is_closed = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def look(self, keys: Sequence[str]) -> Mapping[str, Observation]:
        """Look now; EngineAwayError where the engine does not answer."""
        at = time.monotonic()
        found = dict(self._ask(keys))
        with self._lock:
            if at >= self._seen_at:
                self._seen, self._seen_at = found, at
        return found

    def expect(self, key: str) -> None:
        """That key is being started now."""
        with self._lock:
            self._expected[key] = time.monotonic()

    def observe(self, keys: Sequence[str]) -> Dict[str, Observation]:
        """Of each key, what the last look tells; nothing of one that it is too old for."""
        with self._lock:
            self._asked_at, self._keys = time.monotonic(), list(keys)
            for key in self._expected.keys() - set(keys):
                del self._expected[key]
            if self._thread is None and keys:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            if not self._seen_at:
                return {}
            told = [key for key in keys if self._expected.get(key, 0.0) < self._seen_at]
            return {key: self._seen.get(key, Observation(key, ObservedState.UNKNOWN)) for key in told}

    def close(self) -> None:
        """Look no more."""
        self._is_closed.set()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._is_closed.wait(pause_s):
            pause_s = LOOK_S
            if time.monotonic() - self._asked_at < 2 * LOOK_S:
                try:
                    self.look(self._keys)
                except EngineAwayError:
                    pass  # What was seen last stays: runs in flight end as their runners say.
                except ServiceException:
                    pass  # A refusal tells nothing of any attempt.

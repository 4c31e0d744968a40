"""What an engine beside this host is asked, in a thread of its own: control hands over and never waits."""

import logging
import threading
import time
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Set

from runyard.compute.remote import WAITS_FOR_ANSWER, EngineAwayError
from runyard.errors import ServiceException, StorageFullError
from runyard.protocol.plan import Observation, ObservedState

#: Between two looks while there is anything to see, seconds; ends come as the runners' own reports.
LOOK_S = 2.0

#: While a key is being started, no look is new enough to tell of it.
FAR_AHEAD = float("inf")

_log = logging.getLogger("runyard.compute")


class Watch:
    """What is still to be done, and the last thing that was seen of each attempt."""

    def __init__(self, name: str, look: Callable[[Sequence[str]], Mapping[str, Observation]]) -> None:
        """``look`` asks the engine for attempts by their keys: EngineAwayError where it does not answer.

        A key that it leaves out is one that the engine does not know.
        """
        self._name = name
        self._ask = look
        self._lock = threading.Condition()
        #: Attempts that the engine has not taken yet, and what each of them waits for.
        self._starts: Dict[str, Callable[[], None]] = {}
        self._reasons: Dict[str, str] = {}
        #: Why the engine did not take an attempt.
        self._refused: Dict[str, str] = {}
        #: What was not to start any more before the engine took it: it knows nothing of them, whatever it says.
        self._dropped: Set[str] = set()
        self._acts: Dict[str, Callable[[], None]] = {}
        self._seen: Dict[str, Observation] = {}
        #: When the look began whose result is here; 0: none yet.
        self._seen_at = 0.0
        #: When each key was last started: no look from before that tells of it.
        self._expected: Dict[str, float] = {}
        self._keys: List[str] = []
        self._asked_at = 0.0
        self._is_closed = False
        self._thread: Optional[threading.Thread] = None

    def begin(self, key: str, start: Callable[[], None]) -> None:
        """Have ``start`` called until the engine takes the attempt: it is tried again where nobody answers."""
        with self._lock:
            self._starts[key] = start
            self._refused.pop(key, None)
            self._dropped.discard(key)
            self._reasons[key] = "Is being handed to its compute target."
            self._wake()

    def do(self, what: str, act: Callable[[], None]) -> None:
        """Have the engine asked for something that is asked for again where it fails; once, however often it is told.

        ``what`` names it, its key included.
        """
        with self._lock:
            self._acts[what] = act
            self._wake()

    def forget(self, key: str) -> None:
        """That attempt is not to start any more, unless it has."""
        with self._lock:
            if self._starts.pop(key, None) is not None and self._expected.get(key) != FAR_AHEAD:
                self._dropped.add(key)

    def observe(self, keys: Sequence[str]) -> Dict[str, Observation]:
        """Of each key, what was seen last; nothing of one that this is too old for."""
        with self._lock:
            self._asked_at, self._keys = time.monotonic(), list(keys)
            for known in (self._expected, self._refused, self._reasons):
                for key in known.keys() - set(keys) - self._starts.keys():
                    del known[key]
            self._dropped &= set(keys)
            if keys:
                self._begin_thread()
            found = {key: self._told(key) for key in keys}
        return {key: one for key, one in found.items() if one is not None}

    def close(self) -> None:
        """Ask no more."""
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()

    def _told(self, key: str) -> Optional[Observation]:
        if key in self._starts:
            return Observation(key, ObservedState.WAITING, self._reasons.get(key, ""))
        if key in self._dropped:
            return Observation(key, ObservedState.UNKNOWN)
        if key in self._refused:
            return Observation(key, ObservedState.REFUSED, self._refused[key])
        if not self._seen_at or self._expected.get(key, 0.0) >= self._seen_at:
            return None
        return self._seen.get(key, Observation(key, ObservedState.UNKNOWN))

    def _wake(self) -> None:
        self._begin_thread()
        self._lock.notify_all()

    def _begin_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        look_at = 0.0
        while not self._is_closed:
            self._act()
            self._start()
            now = time.monotonic()
            if now >= look_at and now - self._asked_at < 2 * LOOK_S:
                self._look()
                look_at = time.monotonic() + LOOK_S
            with self._lock:
                if not self._acts and not self._is_closed:
                    self._lock.wait(LOOK_S if self._starts else max(0.05, min(LOOK_S, look_at - time.monotonic())))

    def _act(self) -> None:
        with self._lock:
            acts, self._acts = self._acts, {}
        for act in acts.values():
            try:
                act()
            except EngineAwayError:
                return  # The others would only wait as long again; all are asked for again.
            except ServiceException:
                pass
            except Exception:  # noqa: BLE001 - the thread must go on for all other attempts
                _log.exception("%s could not be asked", self._name)

    def _start(self) -> None:
        with self._lock:
            starts = list(self._starts.items())
        for key, start in starts:
            with self._lock:
                if self._starts.get(key) is not start:
                    continue  # It was canceled meanwhile.
                self._expected[key] = FAR_AHEAD
            try:
                start()
            except (EngineAwayError, StorageFullError) as error:
                with self._lock:
                    self._expected.pop(key, None)
                    if key not in self._starts:
                        self._dropped.add(key)
                # The others would only wait as long again to hear the same.
                for one, _ in starts:
                    self._reasons[one] = f"{WAITS_FOR_ANSWER}{error}"
                return
            except ServiceException as error:
                self._refused[key] = str(error)
            except Exception as error:  # noqa: BLE001 - as above
                _log.exception("%s could not be handed %s", self._name, key)
                self._refused[key] = f"{type(error).__name__}: {error}"
            with self._lock:
                self._expected[key] = time.monotonic()
                if self._starts.get(key) is start:
                    del self._starts[key]

    def _look(self) -> None:
        at = time.monotonic()
        try:
            with self._lock:
                # What was started since control asked last is wanted too.
                wanted = [*self._keys, *(key for key in self._expected if key not in self._keys)]
            found = dict(self._ask(wanted))
        except ServiceException:
            return  # What was seen last stays: runs in flight end as their runners say.
        except Exception:  # noqa: BLE001 - as above
            _log.exception("what %s says is not understood", self._name)
            return
        with self._lock:
            self._seen, self._seen_at = found, at

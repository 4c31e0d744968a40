"""The seam of a compute target: control starts, polls and stops attempts by their keys, and knows no more of it."""

from typing import Dict, Iterable, Protocol

from runyard.protocol.plan import LaunchPlan, Observation


class Compute(Protocol):
    """Carries out attempts. A key is ``<run id>/<attempt>``; control has stored it before it calls."""

    @property
    def fence_s(self) -> float:
        """How long an attempt that it sees no more may live unheard of, seconds; then the attempt ends itself, or is no
        more. 0: what it does not see is gone."""

    def prepare(self) -> None:
        """Make the first start a fast one; may block. Idempotent, and not needed."""

    def start(self, key: str, plan: LaunchPlan, secret: str) -> None:
        """Begin the attempt; ``secret`` is the token of its run.

        May block for some milliseconds: an engine that answers later is asked in the background, and ``poll`` says
        what came of it. Idempotent: a key whose runner lives is left alone. Raises ServiceException where the engine
        refuses; control tries again, and for a StorageFullError or an EngineAwayError as often as it takes. A refusal
        that comes later is ObservedState.REFUSED of ``poll``, and ends the run.
        """

    def recover(self, key: str) -> bool:
        """Finish an attempt whose runner is gone: end what it left behind, send what it had not sent. Idempotent.

        False: nobody can do that here, and the attempt is lost with what it had not sent. StorageFullError where the
        engine's disk is full: control tries again until there is space. Also called for an attempt whose run begins
        anew elsewhere: what may live of it ends.
        """

    def poll(self, keys: Iterable[str]) -> Dict[str, Observation]:
        """What is seen of each key now; Unknown for one never started. Never blocks for long, never raises.

        Leaves a key out where nothing is known now, as of an engine that is away.
        """

    def stop(self, key: str) -> None:
        """Ask the attempt's runner to end its processes (TERM, grace, KILL). Returns at once; absent keys are fine.

        Control asks again each second until the attempt is over: an engine need not be told as often. So for ``kill``.
        """

    def kill(self, key: str) -> None:
        """End the attempt's runner at once, where it does not listen to ``stop``.

        Its processes are ended by ``recover``, or by the supervisor that its node has. Asked again, an engine may end
        all that is left of the attempt; absent keys are fine.
        """

    def tidy(self, keys: Iterable[str], before: float) -> None:
        """Remove what attempts other than ``keys`` left and did not touch since ``before``, seconds since 1970."""

    def close(self) -> None:
        """End what works in the background; attempts go on, and another server finds them by their keys."""

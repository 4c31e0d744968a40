"""What goes wrong again and again is logged once a minute."""

import time
from typing import Dict, Tuple

#: After so long the same is said again, seconds.
AGAIN_S = 60.0


class Complaints:
    """Of one thread: what was said when."""

    def __init__(self) -> None:
        self._said: Dict[Tuple[str, str], float] = {}

    def is_new(self, about: str, error: BaseException) -> bool:
        """Should it be said? Not where the same was, of the same, within the last minute."""
        now, key = time.monotonic(), (about, repr(error))
        self._said = {one: then for one, then in self._said.items() if now - then < AGAIN_S}
        if key in self._said:
            return False
        self._said[key] = now
        return True

"""How a request for a run waits without holding a thread: look, sleep until something happens, look again."""

import time
from typing import Any, Callable, Optional, Tuple

from runyard.server.call import Call
from runyard.server.threads import in_thread

#: Longest sleep before looking again although nothing was heard, seconds.
LOOK_S = 5.0


async def wait_until(
    call: Call, look: Callable[[Call], Tuple[Any, bool]], wait_s: float, topic: Optional[str] = None
) -> Any:
    """``look``'s first value as soon as its second is True, or when the time is over.

    Looks at each notification of ``topic``; by default of the run that the request names.
    """
    ends_at = time.monotonic() + wait_s
    while True:
        heard = call.parts.events.listen(topic or call.path["run_id"])
        value, is_done = await in_thread(look, call)
        left = ends_at - time.monotonic()
        if is_done or left <= 0 or call.parts.is_stopping():
            heard.cancel()
            return value
        await call.parts.events.wait(heard, min(left, LOOK_S))

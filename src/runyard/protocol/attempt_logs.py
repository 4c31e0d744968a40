"""What the logs of a run's earlier attempts are called: as the last one's, below a folder of the attempt."""

import re

#: How the names of the logs begin that each attempt has of its own.
OWN_LOGS = ("user_logs/std_log", "system_logs/node_")

_EARLIER = re.compile(r"(?:user_logs|system_logs)/attempt_[1-9]\d*/")


def log_of_attempt(path: str, attempt: int) -> str:
    """``user_logs/std_log.txt`` as ``user_logs/attempt_1/std_log.txt``."""
    top, _, rest = path.partition("/")
    return f"{top}/attempt_{attempt}/{rest}"


def is_of_earlier_attempt(path: str) -> bool:
    """Is that the log of an attempt that is over, to which nothing will be added?"""
    return _EARLIER.match(path) is not None

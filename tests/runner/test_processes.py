"""What is below a runner when its script has ended."""

import subprocess
import sys
import time

from runyard.runner.processes import VANISH_S

#: A runner's process: nothing but what it starts itself is below it.
WAITS = """
import subprocess, sys, time
from runyard.runner.processes import are_gone
script = subprocess.Popen(["sleep", sys.argv[1]])
began = time.monotonic()
print(are_gone(), time.monotonic() - began)
script.kill()
"""


def waited(sleep_s: float) -> tuple[bool, float]:
    """(are they gone, how long that took) with a process below that ends by itself after that time."""
    words = [sys.executable, "-c", WAITS, str(sleep_s)]
    is_gone, took_s = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return is_gone == "True", float(took_s)


def test_process_that_ends_by_itself_at_once_is_not_looked_for() -> None:
    began = time.monotonic()
    while not (found := waited(VANISH_S / 10))[0]:
        assert time.monotonic() - began < 20, "a process of some milliseconds always counts as left over"
    assert found[1] > 0


def test_process_that_stays_is_waited_for_briefly() -> None:
    is_gone, took_s = waited(60)
    assert not is_gone
    assert VANISH_S <= took_s < 10

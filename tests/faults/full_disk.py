"""A run on a home whose disk gets full, in a mount namespace of its own: it says so, and ends once there is space."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.house import WORKSPACE, House, is_running, wait_until


def main(folder: Path) -> None:
    """A house on a small disk of its own, and what may happen there."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=True)
    house = House(disk)
    try:
        _fill_before_the_end(house, disk / "ballast")
        _fill_while_it_logs(house, disk / "ballast")
    finally:
        house.clean()
    print("survived")


def _fill_before_the_end(house: House, ballast: Path) -> None:
    """Fill the disk while a script runs; free it; the run completes with all it made."""
    run_id = house.submit(
        "with open('outputs/model.bin', 'wb') as file:\n    file.write(os.urandom(1 << 20))\n"
        "print('made', flush=True)\ntell('made')\nawait_file('go on')\n"
        # The link makes the file one that is copied into the store, and so needs space there.
        "os.link('outputs/model.bin', 'outputs/twin.bin')"
    )
    house.hear("made")
    with open(ballast, "wb") as file:
        free = os.statvfs(ballast.parent)
        file.write(bytes(free.f_bavail * free.f_frsize - 300_000))
    house.tell("go on")
    wait_until(lambda: "full" in (house.run(run_id).reason or ""), "the run says that a disk is full")
    ballast.unlink()
    run = house.wait(run_id)
    assert run.status == "Completed", run.error
    assert house.log(run_id) == "made\n"


def _fill_while_it_logs(house: House, ballast: Path) -> None:
    """To the last byte, so that neither log nor reports nor metrics can be written; runner and script live on."""
    run_id = house.submit(
        # The first value gives the spool its page of this small disk, where the others fit.
        "run.log('x', 0)\ntell('logging')\nfor i in range(1, 100):\n    run.log('x', i)\n    time.sleep(0.05)\n"
        "await_file('space')\nwith open('outputs/after.txt', 'w') as file:\n    file.write('kept')\n"
    )
    house.hear("logging")
    runner = house.runner_pid(run_id)
    with open(ballast, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(1 << 20)):
                pass
        with contextlib.suppress(OSError):
            while file.write(b"0" * 512):
                pass
    time.sleep(6)
    assert is_running(runner), "the runner lives on"
    ballast.unlink()
    house.tell("space")
    run = house.wait(run_id)
    assert run.status == "Completed", run.error
    assert house.metric(run_id, "x") == list(range(100))
    data = house.server.call("read_artifact", workspace=WORKSPACE, run_id=run_id, path="outputs/after.txt")
    assert data == b"kept"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

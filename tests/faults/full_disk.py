"""A run on a home whose disk gets full, in a mount namespace of its own: it says so, and ends once there is space."""

import os
import subprocess
import sys
from pathlib import Path

from tests.faults.house import House, wait_until


def main(folder: Path) -> None:
    """Fill the disk while a script runs; free it; the run completes with all it made."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=True)
    house = House(disk)
    try:
        run_id = house.submit(
            "with open('outputs/model.bin', 'wb') as file:\n    file.write(os.urandom(1 << 20))\n"
            "print('made', flush=True)\ntell('made')\nawait_file('go on')\n"
            # The link makes the file one that is copied into the store, and so needs space there.
            "os.link('outputs/model.bin', 'outputs/twin.bin')"
        )
        house.hear("made")
        ballast = disk / "ballast"
        with open(ballast, "wb") as file:
            free = os.statvfs(disk)
            file.write(bytes(free.f_bavail * free.f_frsize - 300_000))
        house.tell("go on")
        wait_until(lambda: "full" in (house.run(run_id).reason or ""), "the run says that a disk is full")
        ballast.unlink()
        run = house.wait(run_id)
        assert run.status == "Completed", run.error
        assert house.log(run_id) == "made\n"
    finally:
        house.clean()
    print("survived")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

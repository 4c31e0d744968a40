"""What mpirun calls in place of ssh: hands "start this on that node" to the runner of the first node, and waits.

Called as ``agent NODE WORD...``, on its own and by path; standard library.
"""

import json
import os
import sys
import time


def main() -> int:
    """0 once the command was started on that node."""
    path = os.path.join(os.environ["RUNYARD_LAUNCHES"], f"{os.getpid()}.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"node": sys.argv[1], "words": sys.argv[2:]}, file)
    os.rename(path + ".new", path)
    while not os.path.exists(path + ".done"):
        time.sleep(0.005)
    with open(path + ".done", encoding="utf-8") as file:
        return int(file.read())


if __name__ == "__main__":
    sys.exit(main())

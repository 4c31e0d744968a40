"""``python -m bench [NAME ...]``: every figure beside its goal, and beside a peer or a limit of this machine."""

import importlib
import os
import platform
import sys

NAMES = ("server", "track", "submit", "files", "data", "store", "environments", "tabular", "distributed", "engines")


def main() -> None:
    """Run the benchmarks that are named, or all."""
    print(f"Python {platform.python_version()} at {sys.executable}, load {os.getloadavg()[0]:.1f}")
    for name in sys.argv[1:] or NAMES:
        print(f"\n{name}")
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()

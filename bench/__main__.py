"""``python -m bench [--check] [NAME ...]``: every figure, its goal, and a peer or a limit of this machine beside it.

With ``--check`` it ends with 1 where a goal is missed.
"""

import argparse
import importlib
import os
import platform
import sys

from bench.measure import missed

NAMES = (
    "server",
    "track",
    "submit",
    "files",
    "data",
    "store",
    "environments",
    "tabular",
    "distributed",
    "engines",
    "serving",
)


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--check", action="store_true", help="end with 1 where a goal is missed")
    asked = parser.parse_args()
    print(f"Python {platform.python_version()} at {sys.executable}, load {os.getloadavg()[0]:.1f}")
    for name in asked.names or NAMES:
        print(f"\n{name}")
        # Some have arguments of their own, where they are run alone.
        sys.argv = [f"bench.{name}"]
        importlib.import_module(f"bench.{name}").main()
    if asked.check and missed:
        sys.exit("\n".join(["", f"{len(missed)} goals are missed:", *missed]))


if __name__ == "__main__":
    main()

"""How many threads a framework computes with: several requests at once are several replicas."""

import os

#: The framework's own libraries read it too; protocol/services.py sets it by the cores that were asked for.
VARIABLE = "OMP_NUM_THREADS"


def threads() -> int:
    """As many as were asked for, and no more than there are cores; 1 where nobody has said."""
    try:
        return max(1, min(int(os.environ[VARIABLE]), os.cpu_count() or 1))
    except (KeyError, ValueError):
        return 1

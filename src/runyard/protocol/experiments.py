"""An experiment: a named series of runs."""

from dataclasses import field
from typing import Dict

from runyard.protocol.record import record


@record
class Experiment:
    """A named series of runs."""

    id: str
    name: str
    workspace: str
    created_by: str
    created_at: int
    tags: Dict[str, str] = field(default_factory=dict)

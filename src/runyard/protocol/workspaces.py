"""A workspace: as asked (WorkspaceSpec), and as stored (Workspace)."""

from dataclasses import field
from typing import Dict

from runyard.protocol.record import record


@record
class WorkspaceSpec:
    """A workspace as asked."""

    name: str
    subscription_id: str = ""
    resource_group: str = ""
    location: str = "local"
    friendly_name: str = ""
    description: str = ""
    tags: Dict[str, str] = field(default_factory=dict)
    #: False: an existing one is returned as it is.
    exist_ok: bool = True


@record
class Workspace:
    """A workspace as stored."""

    id: str
    name: str
    subscription_id: str
    resource_group: str
    location: str
    friendly_name: str
    description: str
    created_by: str
    created_at: int
    tags: Dict[str, str] = field(default_factory=dict)

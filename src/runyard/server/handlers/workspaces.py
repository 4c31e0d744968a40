"""Workspaces."""

from typing import List

from runyard.db import workspaces
from runyard.protocol.workspaces import Workspace, WorkspaceSpec
from runyard.server import names
from runyard.server.call import Call


def create_workspace(call: Call) -> Workspace:
    """A new workspace, or the one of that name."""
    spec: WorkspaceSpec = call.body
    names.check_workspace_name(spec.name)
    return call.parts.database.write(lambda c: workspaces.create_workspace(c, spec, call.user, call.now))


def list_workspaces(call: Call) -> List[Workspace]:
    """Those that the principal may see."""
    with call.parts.database.read() as connection:
        found = workspaces.list_workspaces(connection)
    only = call.principal.workspace if call.principal else None
    return [one for one in found if only is None or one.name == only]


def get_workspace(call: Call) -> Workspace:
    """The workspace."""
    with call.parts.database.read() as connection:
        return workspaces.get_workspace(connection, call.workspace)

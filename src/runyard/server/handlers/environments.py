"""Environments: those that users register, and the curated ones."""

from typing import List

from runyard.db import environments, workspaces
from runyard.environments.curated import get_curated, is_reserved, list_curated
from runyard.errors import UserErrorException
from runyard.protocol.environments import Environment, EnvironmentBody, EnvironmentSpec, spec_digest
from runyard.protocol.workspaces import Workspace
from runyard.server import names
from runyard.server.call import Call


def register_environment(call: Call) -> Environment:
    """Its next version; the names of curated environments are reserved."""
    body: EnvironmentBody = call.body
    spec = body.spec
    names.check_asset_name(spec.name)
    names.check_variables(spec.variables)
    if is_reserved(spec.name):
        raise UserErrorException(
            f"The name {spec.name!r} is reserved for curated environments; choose another, or clone(new_name=...)."
        )
    digest = spec_digest(spec)
    return call.parts.database.write(
        lambda c: environments.register_environment(c, spec, digest, call.workspace, call.user, call.now)
    )


def list_environments(call: Call) -> List[Environment]:
    """Registered and curated ones."""
    with call.parts.database.read() as connection:
        workspace = workspaces.get_workspace(connection, call.workspace)
        found = environments.list_environments(connection, call.workspace)
    return found + [_curated(spec, workspace) for spec in list_curated()]


def get_environment(call: Call) -> Environment:
    """By name and version."""
    name = call.path["name"]
    with call.parts.database.read() as connection:
        workspace = workspaces.get_workspace(connection, call.workspace)
        if is_reserved(name):
            return _curated(get_curated(name), workspace)
        return environments.get_environment(connection, call.workspace, name, call.query.get("version") or None)


def _curated(spec: EnvironmentSpec, workspace: Workspace) -> Environment:
    return Environment(spec.name, spec.version, workspace.name, spec, "runyard", workspace.created_at, is_curated=True)

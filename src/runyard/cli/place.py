"""Which workspace a command means."""

import os

from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol.runs import Run as RunRecord
from runyard.sdk.run import Run
from runyard.sdk.run_record import iterate_runs
from runyard.sdk.workspace import Workspace


def find_workspace(name: str | None) -> Workspace:
    """The workspace that is named, of RUNYARD_WORKSPACE, of the folder's config, or the only one there is."""
    name = name or os.environ.get("RUNYARD_WORKSPACE")
    if name:
        return Workspace.get(name)
    try:
        return Workspace.from_config()
    except NotFoundError:
        pass  # no config; one that is broken is told
    found = Workspace.list()
    if len(found) == 1:
        return next(iter(found.values()))[0]
    if not found:
        raise NotFoundError("There is no workspace yet; make one with: runyard workspace create NAME")
    raise UserErrorException(
        f"There are {len(found)} workspaces ({', '.join(sorted(found))}); "
        "choose one with --workspace or RUNYARD_WORKSPACE."
    )


def find_run(workspace: Workspace, name: str) -> Run:
    """The run of that id, of an unambiguous beginning of one, or 'latest'."""
    if name != "latest":
        try:
            return Run.get(workspace, name)
        except NotFoundError:
            pass
    matching: list[RunRecord] = []
    for record in iterate_runs(workspace, {}):
        if name == "latest" or record.id.startswith(name):
            matching.append(record)
        if name == "latest" or len(matching) > 1:
            break
    if not matching:
        raise NotFoundError(f"No run {name!r} in workspace {workspace.name!r}; see: runyard run list")
    if len(matching) > 1:
        raise UserErrorException(
            f"{name!r} begins the ids of several runs, {matching[0].id} among them; give more of it."
        )
    return Run.get(workspace, matching[0].id)

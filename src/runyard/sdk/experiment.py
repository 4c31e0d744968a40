"""Experiment: a named series of runs."""

from typing import Any, Dict, Iterator, Optional

from runyard.errors import ExperimentNameError
from runyard.sdk.run import Run
from runyard.sdk.workspace import Workspace


class Experiment:
    """The experiment of that name in a workspace, made if there is none."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        _skip_name_validation: bool = False,
        _id: Optional[str] = None,
        _archived_time: Any = None,
        _create_in_cloud: bool = True,
        _experiment_dto: Any = None,
        **_: Any,
    ) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise ExperimentNameError()
        self._workspace = workspace
        self._name = name
        self._id = _id
        if _create_in_cloud:
            self._id = workspace._call("create_experiment", name=name).id

    @property
    def workspace(self) -> Workspace:
        """The workspace that it belongs to."""
        return self._workspace

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._name

    @property
    def id(self) -> str:
        """The experiment's id."""
        if self._id is None:
            self._id = str(self._workspace._call("get_experiment", name=self._name).id)
        return self._id

    def submit(self, config: Any, tags: Optional[Dict[str, str]] = None, **kwargs: Any) -> Run:
        """Start a run of ``config`` (a ScriptRunConfig); returns as soon as the server has accepted it.

        What can be known to be wrong raises now: a script that is missing, an unknown target, a folder too large.
        """
        # Loaded here: most scripts that hold an experiment never submit.
        from runyard.sdk.submission import submit

        return submit(self, config, tags, **kwargs)

    def start_logging(self, *_: Any, display_name: Optional[str] = None, **__: Any) -> Run:
        """A run that this process carries itself: log to it, then ``complete()``."""
        from runyard.sdk.submission import start_interactive

        return start_interactive(self, display_name)

    def get_runs(
        self,
        type: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,
        include_children: bool = False,
        status: Optional[str] = None,
    ) -> Iterator[Run]:
        """The experiment's runs, newest first; ``tags`` is a key, or a dict of keys and values.

        ``type`` is what ``Run.type`` gives, with or without its 'azureml.'.
        """
        from runyard.sdk.run_record import iterate_runs

        query = {"experiment": self._name, "status": status, "tags": tags, "properties": properties}
        for record in iterate_runs(self._workspace, query):
            run = Run(self, record.id, _record=record)
            is_asked_for = type is None or type.lower() in (run.type, run.type.partition(".")[2])
            if is_asked_for and (include_children or record.spec.parent_run_id is None):
                yield run

    @staticmethod
    def list(workspace: Workspace) -> Any:
        """Every experiment of the workspace."""
        return list(workspace.experiments.values())

    def get_portal_url(self) -> str:
        """The page of the workspace's runs."""
        from runyard.sdk.session import current_server

        return f"{current_server().address()}/workspaces/{self._workspace.name}/runs"

    def __repr__(self) -> str:
        return f"Experiment(name={self._name!r}, workspace={self._workspace.name!r})"

"""ComputeTarget: where runs go; ``ComputeTarget(ws, name)`` is the one of that name, whatever its kind."""

from typing import Any, Dict, Iterator, List, Optional

from runyard.errors import ComputeTargetException, ConflictError
from runyard.protocol.compute import Cluster, EngineKind
from runyard.sdk.experiment import Experiment
from runyard.sdk.run import Run
from runyard.sdk.run_record import iterate_runs
from runyard.sdk.workspace import Workspace


class ComputeTarget:
    """A compute target of a workspace."""

    def __new__(cls, workspace: Workspace, name: str, *_: Any, **__: Any) -> Any:
        """The target of that name; ComputeTargetException if there is none."""
        if cls is ComputeTarget:
            from runyard.sdk.aml_compute import AmlCompute

            found = AmlCompute(workspace, name)
            return found if found._record.spec.engine is None else cls._of(workspace, found._record)
        return super().__new__(cls)

    @staticmethod
    def _of(workspace: Workspace, record: Any) -> Any:
        """The target of a stored record, by its kind."""
        from runyard.sdk.aml_compute import AmlCompute
        from runyard.sdk.ray_compute import RayCompute
        from runyard.sdk.remote_compute import RemoteCompute
        from runyard.sdk.slurm_compute import SlurmCompute

        kinds: Dict[str, Any] = {
            EngineKind.LOCAL: AmlCompute,
            EngineKind.SLURM: SlurmCompute,
            EngineKind.RAY: RayCompute,
            EngineKind.SSH: RemoteCompute,
        }
        return kinds[record.spec.kind](workspace, record.name, _record=record)

    @staticmethod
    def create(workspace: Workspace, name: str, provisioning_configuration: Any) -> Any:
        """A new target; ``wait_for_completion`` waits until it is ready."""
        create = getattr(provisioning_configuration, "_create", None)
        if create is None:
            raise ComputeTargetException(
                f"{type(provisioning_configuration).__name__!r} is not a provisioning configuration; "
                "use AmlCompute.provisioning_configuration(...)."
            )
        return create(workspace, name)

    @staticmethod
    def attach(workspace: Workspace, name: str, attach_configuration: Any) -> Any:
        """A machine or cluster that is there already, as a target; ComputeTargetException where that cannot be."""
        attach = getattr(attach_configuration, "_attach", None)
        if attach is None:
            raise ComputeTargetException(
                f"{type(attach_configuration).__name__!r} is not an attach configuration; "
                "use RemoteCompute.attach_configuration(...), or that of SlurmCompute or RayCompute."
            )
        return attach(workspace, name)

    @staticmethod
    def list(workspace: Workspace) -> List[Any]:
        """Every target of the workspace."""
        return [ComputeTarget._of(workspace, one) for one in workspace._call("list_clusters")]

    def __init__(self, workspace: Workspace, name: str, _record: Optional[Cluster] = None) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise ComputeTargetException(f"ComputeTargetNotFound: {name!r} cannot be a compute target's name.")
        self._workspace = workspace
        self._record: Cluster = _record or workspace._call("get_cluster", name=name)
        self._name = name

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self._name

    @property
    def id(self) -> str:
        """The cluster's name: it is the only one of that name in the workspace."""
        return self._name

    @property
    def workspace(self) -> Workspace:
        """The workspace that it belongs to."""
        return self._workspace

    @property
    def tags(self) -> Dict[str, str]:
        """The cluster's tags."""
        return dict(self._record.spec.tags)

    def delete(self) -> None:
        """Delete it; ComputeTargetException while runs use it."""
        try:
            self._workspace._call("delete_cluster", name=self._name)
        except ConflictError as error:
            raise ComputeTargetException(error.message) from None

    def get_active_runs(
        self, type: Optional[str] = None, tags: Any = None, properties: Any = None, status: Optional[str] = None
    ) -> Iterator[Run]:
        """The cluster's runs that have not ended, newest first."""
        for record in iterate_runs(self._workspace, {"tags": tags, "properties": properties, "status": status}):
            if record.target == self._name and record.ended_at is None:
                experiment = Experiment(self._workspace, record.experiment, _create_in_cloud=False)
                run = Run(experiment, record.id, _record=record)
                if type is None or type.lower() in (run.type, run.type.partition(".")[2]):
                    yield run

    def refresh_state(self) -> None:
        """Look at it again."""
        self._refresh()

    def _refresh(self) -> Cluster:
        self._record = self._workspace._call("get_cluster", name=self._name)
        return self._record

    def __repr__(self) -> str:
        return f"{type(self).__name__}(workspace={self._workspace.name!r}, name={self._name!r})"

"""ComputeTarget: where runs go; ``ComputeTarget(ws, name)`` is the one of that name, whatever its kind."""

from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import urlsplit

from runyard.errors import ComputeTargetException, ConflictError, UserErrorException
from runyard.protocol.compute import Cluster, ClusterChange, EngineKind
from runyard.sdk.aml_compute_status import state_of
from runyard.sdk.experiment import Experiment
from runyard.sdk.run import Run
from runyard.sdk.run_record import iterate_runs
from runyard.sdk.session import current_server
from runyard.sdk.whole_number import whole_number
from runyard.sdk.workspace import Workspace


class ComputeTarget:
    """A compute target of a workspace."""

    def __new__(cls, workspace: Workspace, name: str, *_: Any, **__: Any) -> Any:
        """The target of that name; ComputeTargetException if there is none."""
        if cls is ComputeTarget:
            _check_name(name)
            return cls._of(workspace, workspace._call("get_cluster", name=name))
        return super().__new__(cls)

    @staticmethod
    def _of(workspace: Workspace, record: Any) -> Any:
        """The target of a stored record, by its kind."""
        return ComputeTarget._class_of(record)(workspace, record.name, _record=record)

    @staticmethod
    def _class_of(record: Any) -> Any:
        from runyard.sdk.aml_compute import AmlCompute
        from runyard.sdk.compute_instance import ComputeInstance
        from runyard.sdk.ray_compute import RayCompute
        from runyard.sdk.remote_compute import RemoteCompute
        from runyard.sdk.slurm_compute import SlurmCompute

        kinds: Dict[str, Any] = {
            EngineKind.LOCAL: ComputeInstance if record.spec.is_instance else AmlCompute,
            EngineKind.SLURM: SlurmCompute,
            EngineKind.RAY: RayCompute,
            EngineKind.SSH: RemoteCompute,
        }
        return kinds[record.spec.kind]

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
        _check_name(name)
        self._workspace = workspace
        self._record: Cluster = _record or workspace._call("get_cluster", name=name)
        self._name = name
        if not issubclass(ComputeTarget._class_of(self._record), type(self)):
            raise ComputeTargetException(
                f"ComputeTargetNotFound: {name!r} is no {type(self).__name__}; get it with ComputeTarget(ws, {name!r})."
            )

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

    @property
    def provisioning_state(self) -> str:
        """What is made or attached here is there at once."""
        return "Succeeded"

    def get_status(self) -> Any:
        """The target as it is now; an AmlCompute tells more."""
        self._refresh()
        return self.provisioning_state

    def wait_for_completion(self, show_output: bool = False, is_delete_operation: bool = False) -> None:
        """Return at once: what is made, attached or deleted is so when the call returns."""
        if show_output:
            print(self.provisioning_state, flush=True)

    def update(
        self,
        min_nodes: Optional[int] = None,
        max_nodes: Optional[int] = None,
        idle_seconds_before_scaledown: Optional[int] = None,
    ) -> None:
        """Change its bounds; ComputeTargetException says which a target of its kind has."""
        idle_s = idle_seconds_before_scaledown
        change = ClusterChange(
            None if min_nodes is None else checked_whole("min_nodes", min_nodes),
            None if max_nodes is None else checked_whole("max_nodes", max_nodes),
            None if idle_s is None else checked_whole("idle_seconds_before_scaledown", idle_s),
        )
        try:
            self._record = self._workspace._call("change_cluster", change, name=self._name)
        except UserErrorException as error:
            raise ComputeTargetException(error.message) from None

    def list_nodes(self) -> List[Dict[str, Any]]:
        """Its nodes, in v1's keys: what each does, its run, and where it is, as far as that is known."""
        address, port = self._address()
        return [
            {
                "nodeId": node.id,
                "port": port,
                "publicIpAddress": address,
                "privateIpAddress": address,
                "nodeState": state_of(node),
                "runId": node.run_id,
            }
            for node in self._refresh().nodes
        ]

    def _address(self) -> Any:
        """Where its nodes are, and the port at which one logs in; None where nobody knows."""
        spec = self._record.spec
        if spec.kind == EngineKind.LOCAL:
            return urlsplit(current_server().address()).hostname, None
        if spec.engine is not None and spec.kind == EngineKind.SSH:
            return spec.engine.settings.get("address"), int(spec.engine.settings.get("ssh_port", "22"))
        return None, None

    @classmethod
    def deserialize(cls, workspace: Workspace, object_dict: Any) -> Any:
        """The target that ``serialize`` wrote; ComputeTargetException where it is none of this workspace's and kind."""
        name: Any = object_dict.get("name") if isinstance(object_dict, dict) else None
        found: Any = ComputeTarget(workspace, name)
        if not isinstance(found, cls):
            raise ComputeTargetException(f"Compute target {name!r} is no {cls.__name__}; it is a {found.type}.")
        return found

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


def checked_whole(name: str, given: Any) -> int:
    """As ``whole_number``; ComputeTargetException for what is none."""
    found = whole_number(given)
    if found is None:
        raise ComputeTargetException(f"{name} is a whole number, not {given!r}.")
    return found


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not name or "/" in name:
        raise ComputeTargetException(f"ComputeTargetNotFound: {name!r} cannot be a compute target's name.")

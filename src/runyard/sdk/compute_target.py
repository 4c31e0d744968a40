"""ComputeTarget: where runs go; ``ComputeTarget(ws, name)`` is the one of that name, whatever its kind."""

from typing import Any, List

from runyard.errors import ComputeTargetException
from runyard.sdk.workspace import Workspace


class ComputeTarget:
    """A compute target of a workspace."""

    def __new__(cls, workspace: Workspace, name: str, *_: Any, **__: Any) -> Any:
        """The target of that name; ComputeTargetException if there is none."""
        if cls is ComputeTarget:
            from runyard.sdk.aml_compute import AmlCompute

            return AmlCompute(workspace, name)
        return super().__new__(cls)

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
        """Attached targets (machines over SSH, other clusters) come in a later release."""
        raise ComputeTargetException(
            "Attaching a compute target comes in a later release; docs/v1_coverage.md lists what works."
        )

    @staticmethod
    def list(workspace: Workspace) -> List[Any]:
        """Every target of the workspace."""
        from runyard.sdk.aml_compute import AmlCompute

        return [AmlCompute(workspace, one.name, _record=one) for one in workspace._call("list_clusters")]

"""What every compute target has that was attached: an engine beside this host, which brings its own machines."""

import os
import sys
from typing import Any, Dict, Mapping, Optional

from runyard.errors import ComputeTargetException, UserErrorException
from runyard.protocol.compute import ClusterSpec, EngineSpec, VmPriority, facts_of
from runyard.sdk.aml_compute_status import AttachedStatus
from runyard.sdk.compute_target import ComputeTarget
from runyard.sdk.workspace import Workspace

#: The largest file that can be a private key, bytes.
KEY_BYTES_MAX = 1 << 16


class AttachConfiguration:
    """An engine as asked; kept until ``ComputeTarget.attach``."""

    def __init__(
        self,
        kind: str,
        settings: Dict[str, Any],
        nodes_max: int,
        vm_priority: str = VmPriority.DEDICATED,
        secrets: Optional[Dict[str, str]] = None,
    ) -> None:
        self.kind = kind
        self.vm_priority = vm_priority
        self.settings = {name: str(value) for name, value in settings.items() if value is not None}
        #: How many nodes Runyard's own queue gives at once; an engine with a queue of its own decides by itself.
        self.nodes_max = nodes_max
        self._secrets = secrets or {}

    def _attach(self, workspace: Workspace, name: str) -> Any:
        engine = EngineSpec(self.kind, self.settings, self._secrets)
        spec = ClusterSpec(name=name, max_nodes=self.nodes_max, vm_priority=self.vm_priority, engine=engine)
        try:
            record = workspace._call("create_cluster", spec)
        except UserErrorException as error:
            raise ComputeTargetException(error.message) from None
        for warning in record.warnings:
            print("Warning: " + warning, file=sys.stderr)
        return ComputeTarget._of(workspace, record)


def from_settings(
    kind: str, settings: Mapping[str, Any], vm_priority: str = VmPriority.DEDICATED
) -> AttachConfiguration:
    """A target of any kind to attach, of such settings; files with private keys are read here, on the user's machine.

    Which of them are secrets says the protocol of each kind. ``max_nodes`` is one of all but single machines.
    """
    facts = facts_of(kind)
    asked: Dict[str, Any] = {name: value for name, value in settings.items() if value not in (None, "")}
    secrets = {name: str(asked.pop(name)) for name in facts.secrets if name in asked}
    for name, secret in facts.key_files:
        if name in asked:
            secrets[secret] = _private_key(name, str(asked.pop(name)))
    nodes = str(facts.nodes if facts.is_one_machine else asked.pop("max_nodes", facts.nodes))
    if not (nodes.isascii() and nodes.isdigit()):
        raise UserErrorException(f"max_nodes is a whole number, not {nodes[:40]!r}.")
    return AttachConfiguration(kind, asked, int(nodes), vm_priority, secrets)


def _private_key(name: str, path: str) -> str:
    """The text of a private key; ComputeTargetException where that file holds none."""
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(KEY_BYTES_MAX)
    except OSError as error:
        raise ComputeTargetException(f"The {name} {path!r} cannot be read: {error.strerror}.") from None
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").strip() + "\n"
    if "PRIVATE KEY-----" not in text:
        raise ComputeTargetException(
            f"The {name} {path!r} holds no private key; give the file without .pub, as ssh-keygen makes it."
        )
    return text


class AttachedCompute(ComputeTarget):
    """A target that was attached; what it is told stands in its settings."""

    @property
    def type(self) -> str:
        """The name of its kind."""
        return self.__class__.__name__

    @property
    def settings(self) -> Dict[str, str]:
        """What its engine is asked with."""
        engine = self._record.spec.engine
        return {} if engine is None else dict(engine.settings)

    @property
    def vm_size(self) -> Optional[str]:
        """The size that its runs' nodes were asked to have; None: the machines are as they are."""
        return self.settings.get("vm_size")

    def get_status(self) -> AttachedStatus:
        """The target as it is now: ``Succeeded``, with an AmlCompute's attributes beside it."""
        return AttachedStatus(self._refresh())

    def wait_for_completion(  # type: ignore[override]
        self,
        show_output: bool = False,
        min_node_count: Optional[int] = None,
        timeout_in_minutes: float = 25,
        is_delete_operation: bool = False,
    ) -> None:
        """Return at once: attaching is done when ``attach`` returns, and nodes come with the runs.

        ComputeTargetException where it never has ``min_node_count`` nodes.
        """
        nodes_max = self._record.spec.max_nodes
        if min_node_count is not None and min_node_count > nodes_max:
            raise ComputeTargetException(
                f"{self._name!r} never has {min_node_count} nodes: it has {nodes_max} at the most."
            )
        super().wait_for_completion(show_output, is_delete_operation)

    def detach(self) -> None:
        """Forget it; the machines stay as they are. ComputeTargetException while runs use it."""
        self.delete()

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "id": self._name,
            "name": self._name,
            "type": self.type,
            "provisioningState": self.provisioning_state,
            "properties": self.settings,
        }

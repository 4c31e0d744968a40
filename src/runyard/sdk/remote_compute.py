"""RemoteCompute: an existing machine over SSH, as a compute target; its runner comes from the server."""

from typing import Any, NoReturn, Optional

from runyard.errors import ComputeTargetException
from runyard.protocol.compute import EngineKind, VmPriority
from runyard.sdk.attached_compute import AttachConfiguration, AttachedCompute, from_settings
from runyard.sdk.workspace import Workspace


class RemoteCompute(AttachedCompute):
    """An attached machine: one run at a time, in the order of the server's queue, as the account's own processes."""

    @staticmethod
    def attach_configuration(
        username: str,
        subscription_id: Optional[str] = None,
        resource_group: Optional[str] = None,
        vm_name: Optional[str] = None,
        resource_id: Optional[str] = None,
        address: Optional[str] = None,
        ssh_port: int = 22,
        password: Optional[str] = None,
        private_key_file: Optional[str] = None,
        private_key_passphrase: Optional[str] = None,
        node_folder: Optional[str] = None,
        vm_priority: str = VmPriority.DEDICATED,
    ) -> AttachConfiguration:
        """How to attach the machine at ``address``, which needs python3 (3.9 or newer) and an account for runs.

        The text of ``private_key_file``, or the password, goes to the server, which keeps it encrypted and gives it to
        nobody. ``node_folder`` is where the machine keeps environments; variables in it are the machine's. With
        ``vm_priority="lowpriority"`` a run that is lost with the machine starts again, three times at the most.
        """
        if not address and subscription_id and not (resource_group or vm_name or resource_id):
            # The second argument was the address, until machines of Azure's came before it.
            address = subscription_id
        if not address:
            given = subscription_id or resource_group or vm_name or resource_id
            raise ComputeTargetException(
                f"{given!r} names a machine of Azure's, which means nothing here; give its address=..."
                if given
                else "A machine is attached by its address: give address=..."
            )
        return from_settings(
            EngineKind.SSH,
            {
                "address": address,
                "username": username,
                "ssh_port": None if str(ssh_port) == "22" else ssh_port,
                "password": password,
                "private_key_file": private_key_file,
                "private_key_passphrase": private_key_passphrase,
                "node_folder": node_folder,
            },
            vm_priority,
        )

    @staticmethod
    def attach(
        workspace: Workspace,
        name: str,
        username: Any,
        address: Optional[str] = None,
        ssh_port: int = 22,
        password: Optional[str] = None,
        private_key_file: Optional[str] = None,
        private_key_passphrase: Optional[str] = None,
    ) -> Any:
        """v1's older way to attach; in place of a username it may be an attach configuration."""
        if isinstance(username, AttachConfiguration):
            return username._attach(workspace, name)
        config = RemoteCompute.attach_configuration(
            username,
            address=address,
            ssh_port=ssh_port,
            password=password,
            private_key_file=private_key_file,
            private_key_passphrase=private_key_passphrase,
        )
        return config._attach(workspace, name)

    @property
    def type(self) -> str:
        """v1's word for it."""
        return "VirtualMachine"

    @property
    def address(self) -> str:
        """The machine's name or number."""
        return self.settings["address"]

    @property
    def username(self) -> str:
        """The account that runs use there."""
        return self.settings["username"]

    @property
    def ssh_port(self) -> int:
        """Where its SSH server listens."""
        return int(self.settings.get("ssh_port", "22"))

    def get_credentials(self) -> NoReturn:
        """ComputeTargetException: what lets the server in is given to nobody."""
        raise ComputeTargetException(
            f"The key or password of {self._name!r} stays with the server; to change it, detach and attach the machine."
        )

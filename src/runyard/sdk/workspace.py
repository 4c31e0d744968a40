"""Workspace: the top-level noun, found by a config file as v1 searched it, or made by name."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from runyard.errors import NotFoundError, UserErrorException
from runyard.protocol import workspaces
from runyard.sdk.details import Details, Listing
from runyard.sdk.session import current_server
from runyard.sdk.times import iso_time

#: Where v1 looked for a config, in this order, in the folder and then in each of its parents.
CONFIG_PLACES = (".azureml/config.json", ".azureml/project.json", "aml_config/config.json", "aml_config/project.json")
CONFIG_NAME = "config.json"


class Workspace:
    """A workspace on a Runyard server. ``Workspace(...)`` is one that exists; see ``create`` and ``from_config``."""

    def __init__(
        self,
        subscription_id: str = "",
        resource_group: str = "",
        workspace_name: str = "",
        auth: Any = None,
        _record: Optional[workspaces.Workspace] = None,
        **_: Any,
    ) -> None:
        if _record is None and not workspace_name:
            raise UserErrorException("A workspace needs a name; pass workspace_name='...'.")
        self._name = _record.name if _record else workspace_name
        self._known = _record
        if _record is None:
            self._record()

    @classmethod
    def _of_name(cls, name: str) -> "Workspace":
        """A workspace that surely exists, without asking the server yet."""
        found = cls.__new__(cls)
        found._name, found._known = name, None
        return found

    @classmethod
    def create(
        cls,
        name: str,
        auth: Any = None,
        subscription_id: Optional[str] = None,
        resource_group: Optional[str] = None,
        location: Optional[str] = None,
        create_resource_group: bool = True,
        sku: str = "basic",
        tags: Optional[Dict[str, str]] = None,
        friendly_name: Optional[str] = None,
        exist_ok: bool = False,
        show_output: bool = True,
        **_: Any,
    ) -> "Workspace":
        """A new workspace. ConflictError if there is one of that name, unless ``exist_ok``."""
        spec = workspaces.WorkspaceSpec(
            name=name,
            subscription_id=subscription_id or "",
            resource_group=resource_group or "",
            location=location or "local",
            friendly_name=friendly_name or "",
            tags=tags or {},
            exist_ok=exist_ok,
        )
        return cls(_record=current_server().call("create_workspace", spec))

    @classmethod
    def from_config(
        cls, path: Optional[str] = None, auth: Any = None, _logger: Any = None, _file_name: Optional[str] = None
    ) -> "Workspace":
        """The workspace that a config.json names, one downloaded from Azure included; made here on first use.

        Looks for .azureml/config.json, aml_config/config.json and config.json in ``path`` (default: the current folder)
        and in each folder above; ``path`` may also be the file. NotFoundError says where it looked.
        """
        file = _find_config(path, _file_name)
        try:
            found = json.loads(file.read_text("utf-8-sig"))
            name = found["workspace_name"]
            if not isinstance(name, str) or not name:
                raise ValueError("no name")
            spec = workspaces.WorkspaceSpec(
                name=name,
                subscription_id=str(found.get("subscription_id") or ""),
                resource_group=str(found.get("resource_group") or ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserErrorException(
                f"{file} is not a workspace config: it needs JSON with a workspace_name."
            ) from None
        try:
            return cls(_record=current_server().call("get_workspace", workspace=spec.name))
        except NotFoundError:
            # Asked second: a token of one workspace may read it, and make none.
            return cls(_record=current_server().call("create_workspace", spec))

    @classmethod
    def get(
        cls, name: str, auth: Any = None, subscription_id: str = "", resource_group: str = "", **_: Any
    ) -> "Workspace":
        """The workspace of that name; it must exist."""
        return cls(subscription_id, resource_group, name)

    @staticmethod
    def list(subscription_id: str = "", auth: Any = None, resource_group: Any = None) -> "Dict[str, List[Workspace]]":
        """Every workspace of the server, by name."""
        return {one.name: [Workspace(_record=one)] for one in current_server().call("list_workspaces")}

    def write_config(self, path: Optional[str] = None, file_name: Optional[str] = None) -> None:
        """Write .azureml/config.json below ``path``, for ``from_config``."""
        folder = Path(path or ".") / ".azureml"
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "subscription_id": self.subscription_id,
            "resource_group": self.resource_group,
            "workspace_name": self.name,
        }
        (folder / (file_name or CONFIG_NAME)).write_text(json.dumps(content, indent=4) + "\n")

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self._name

    @property
    def subscription_id(self) -> str:
        """As it was given when the workspace was made; nothing here is billed."""
        return self._record().subscription_id

    @property
    def resource_group(self) -> str:
        """As it was given when the workspace was made."""
        return self._record().resource_group

    @property
    def location(self) -> str:
        """'local' unless another was given."""
        return self._record().location

    @property
    def tags(self) -> Dict[str, str]:
        """The workspace's tags."""
        return dict(self._record().tags)

    @property
    def datastores(self) -> Dict[str, Any]:
        """Datastores by name."""
        from runyard.sdk.datastore import datastore_of

        return {one.name: datastore_of(self, one) for one in self._call("list_datastores")}

    @property
    def datasets(self) -> Dict[str, Any]:
        """The latest version of each registered dataset, by name."""
        from runyard.sdk.abstract_dataset import dataset_of

        return {one.name: dataset_of(self, one) for one in self._call("list_datasets")}

    @property
    def environments(self) -> Dict[str, Any]:
        """Environments by name, curated ones included."""
        from runyard.sdk.environment import Environment

        return Environment.list(self)

    @property
    def experiments(self) -> Dict[str, Any]:
        """Experiments by name."""
        from runyard.sdk.experiment import Experiment

        found = {one.name: Experiment(self, one.name, _create_in_cloud=False) for one in self._call("list_experiments")}
        return Listing(found)

    @property
    def compute_targets(self) -> Dict[str, Any]:
        """Compute targets by name."""
        from runyard.sdk.compute_target import ComputeTarget

        return Listing({one.name: one for one in ComputeTarget.list(self)})

    def get_default_compute_target(self, type: str) -> Any:
        """The target "cpu-cluster" for "CPU", or "gpu-cluster" for "GPU", as v1 called them; None: there is none."""
        if str(type).upper() not in ("CPU", "GPU"):
            raise UserErrorException(f"A default compute target is of the type 'CPU' or 'GPU', not {type!r}.")
        return self.compute_targets.get(f"{str(type).lower()}-cluster")

    @property
    def models(self) -> Dict[str, Any]:
        """The latest version of each model, by name."""
        from runyard.sdk.model import Model

        return {one.name: one for one in Model.list(self, latest=True)}

    @property
    def webservices(self) -> Dict[str, Any]:
        """Services by name."""
        from runyard.sdk.webservice import Webservice

        return {one.name: one for one in Webservice.list(self)}

    @property
    def images(self) -> Dict[str, Any]:
        """v1's images by name; WebserviceException says what to call instead."""
        from runyard.sdk.container_image import Image

        return {one.name: one for one in Image.list(self)}

    def set_default_datastore(self, name: str) -> None:
        """Use that datastore where none is named."""
        self._call("set_default_datastore", name=name)

    def get_default_datastore(self) -> Any:
        """The datastore that is used where none is named."""
        from runyard.sdk.datastore import datastore_of

        found = self._call("list_datastores")
        return datastore_of(self, next(one for one in found if one.is_default))

    def get_details(self) -> Details:
        """The workspace as a dict in v1's keys."""
        one = self._record()
        return Details(
            id=one.id,
            name=one.name,
            friendlyName=one.friendly_name,
            description=one.description,
            location=one.location,
            resourceGroup=one.resource_group,
            subscription=one.subscription_id,
            creationTime=iso_time(one.created_at),
            createdBy=one.created_by,
            tags=dict(one.tags),
            type="Runyard/workspaces",
        )

    def _call(self, request: str, body: Any = None, query: Optional[Dict[str, Any]] = None, **path: Any) -> Any:
        return current_server().call(request, body, query, workspace=self._name, **path)

    def _record(self) -> workspaces.Workspace:
        if self._known is None:
            self._known = self._call("get_workspace")
        return self._known

    def __repr__(self) -> str:
        return f"Workspace(name={self._name!r})"


def check_belongs(what: str, owner: Workspace, wanted: Workspace) -> None:
    """UserErrorException for what is another workspace's: its name alone would mean what has that name there."""
    if owner.name != wanted.name:
        raise UserErrorException(
            f"{what} belongs to workspace {owner.name!r}, and not to {wanted.name!r}; use one of {wanted.name!r}."
        )


def _find_config(path: Optional[str], file_name: Optional[str]) -> Path:
    start = Path(path or os.getcwd()).expanduser().absolute()
    if start.is_file():
        return start
    names: Tuple[str, ...] = (*CONFIG_PLACES, CONFIG_NAME)
    if file_name is not None:
        names = (".azureml/" + file_name, "aml_config/" + file_name, file_name)
    for folder in [start, *start.parents]:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise NotFoundError(
        "No workspace config ({}) in {} or above it; write one with Workspace.write_config() or download it from "
        "Azure.".format(" or ".join((names[0], names[-1])), start)
    )

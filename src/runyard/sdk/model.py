"""Model: a registered version of a model, its files under the digests that the run stored."""

import os
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Sequence, Union

from runyard.client.transfer import receive_blob, send_blobs
from runyard.errors import ModelNotFoundException, UserErrorException, WebserviceException
from runyard.files.hashing import hash_file
from runyard.protocol import models
from runyard.protocol.runs import Artifact
from runyard.sdk.labels import has_labels, label_texts
from runyard.sdk.notices import say_once
from runyard.sdk.resource_configuration import ResourceConfiguration
from runyard.sdk.session import current_server, is_in_run
from runyard.sdk.times import utc_time
from runyard.sdk.workspace import Workspace

if TYPE_CHECKING:
    from runyard.sdk.run import Run


class Framework:
    """Names of frameworks that v1 knew."""

    CUSTOM = "Custom"
    TENSORFLOW = "TensorFlow"
    SCIKITLEARN = "ScikitLearn"
    ONNX = "Onnx"
    TFKERAS = "TfKeras"
    PYTORCH = "PyTorch"
    MULTI = "Multi"


class Model:
    """``Model(ws, name)`` is the latest version of that name; also by ``version`` or ``id`` ('name:version')."""

    Framework = Framework

    def __init__(
        self,
        workspace: Workspace,
        name: Optional[str] = None,
        id: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,
        version: Optional[int] = None,
        run_id: Optional[str] = None,
        model_framework: Optional[str] = None,
        expand: bool = True,
        **kwargs: Any,
    ) -> None:
        self.workspace = workspace
        self._record: models.Model = kwargs.get("_record") or _find(
            workspace, name, id, tags, properties, version, run_id, model_framework
        )

    @property
    def id(self) -> str:
        """name:version."""
        return self._record.id

    @property
    def name(self) -> str:
        """The model's name."""
        return self._record.name

    @property
    def version(self) -> int:
        """The version, from 1."""
        return self._record.version

    @property
    def description(self) -> str:
        """A text about it."""
        return self._record.description

    @property
    def tags(self) -> Dict[str, str]:
        """The model's tags."""
        return dict(self._record.tags)

    @property
    def properties(self) -> Dict[str, str]:
        """The model's properties, which cannot change."""
        return dict(self._record.properties)

    @property
    def model_framework(self) -> str:
        """One of ``Model.Framework``."""
        return self._record.framework

    @property
    def model_framework_version(self) -> Optional[str]:
        """The framework's version."""
        return self._record.framework_version

    @property
    def resource_configuration(self) -> Optional[ResourceConfiguration]:
        """What a service of it asks for."""
        needs = self._record.resources
        return None if needs is None else ResourceConfiguration(needs.cpu, needs.memory_in_gb, needs.gpu)

    @property
    def unpack(self) -> bool:
        """False: the files lie as they were given, and there is no archive to unpack."""
        return False

    @property
    def run_id(self) -> Optional[str]:
        """The run whose record it came from."""
        return self._record.run_id

    @property
    def run(self) -> Any:
        """The run whose record it came from."""
        from runyard.sdk.run import Run

        return None if self._record.run_id is None else Run.get(self.workspace, self._record.run_id)

    @property
    def experiment_name(self) -> Optional[str]:
        """The experiment of that run."""
        return self._record.experiment

    @property
    def created_by(self) -> str:
        """Who registered it."""
        return self._record.created_by

    @property
    def created_time(self) -> Any:
        """When it was registered, as a UTC datetime."""
        return utc_time(self._record.created_at)

    @property
    def url(self) -> str:
        """The model's address in the workspace."""
        return f"aml://asset/{self.id}"

    @staticmethod
    def register(
        workspace: Workspace,
        model_path: str,
        model_name: str,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        datasets: Any = None,
        model_framework: Optional[str] = None,
        model_framework_version: Optional[str] = None,
        child_paths: Optional[Union[str, Sequence[str]]] = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Optional[ResourceConfiguration] = None,
    ) -> "Model":
        """Register a local file or folder as the next version; only contents that the server lacks are sent.

        ``child_paths``: of a folder, these files and folders below it alone, under the names that they have there.
        Inside a run the model is the run's: its ``run`` is the one that registered it.
        """
        _say_samples(sample_input_dataset, sample_output_dataset)
        files, blobs = _local_files(model_path, child_paths)
        send_blobs(current_server(), workspace.name, blobs)
        spec = _spec(
            model_name, tags, properties, model_framework, model_framework_version, description, datasets,
            resource_configuration, files=tuple(files), run_id=os.environ["AZUREML_RUN_ID"] if is_in_run() else None,
        )  # fmt: skip
        return Model(workspace, _record=workspace._call("register_model", spec))

    @staticmethod
    def list(
        workspace: Workspace,
        name: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,
        run_id: Optional[str] = None,
        latest: bool = False,
        dataset_id: Optional[str] = None,
        expand: bool = True,
        page_count: int = 255,
        model_framework: Optional[str] = None,
    ) -> "List[Model]":
        """Models of the workspace; each condition that is given must hold."""
        query = {"name": name, "run_id": run_id, "latest": "1" if latest else None}
        found = workspace._call("list_models", query=query)
        kept = [one for one in found if has_labels(one.tags, tags) and has_labels(one.properties, properties)]
        if model_framework is not None:
            kept = [one for one in kept if one.framework == model_framework]
        if dataset_id is not None:
            kept = [one for one in kept if any(dataset_id in pair for pair in one.datasets)]
        return [Model(workspace, _record=one) for one in kept]

    @staticmethod
    def deploy(
        workspace: Workspace,
        name: str,
        models: "List[Model]",
        inference_config: Any = None,
        deployment_config: Any = None,
        deployment_target: Any = None,
        overwrite: bool = False,
        show_output: bool = False,
    ) -> Any:
        """Deploy models as a web service; without an InferenceConfig by their framework, with no code.

        Returns a Webservice at once; its wait_for_deployment waits. UserErrorException for what cannot go without
        code, WebserviceException for a name that is taken, unless ``overwrite``.
        """
        from runyard.sdk.deployment import deploy

        made = deploy(workspace, name, models, inference_config, deployment_config, deployment_target, overwrite)
        if show_output:
            made.wait_for_deployment(show_output=True)
        return made

    @staticmethod
    def package(
        workspace: Workspace,
        models: "List[Model]",
        inference_config: Any = None,
        generate_dockerfile: bool = False,
        image_name: Optional[str] = None,
        image_label: Optional[str] = None,
    ) -> Any:
        """A ModelPackage: a folder with a Dockerfile; with or without ``generate_dockerfile`` no image is built."""
        from runyard.sdk.model_package import write_package

        return write_package(workspace, models, inference_config, image_name, image_label)

    @staticmethod
    def profile(
        workspace: Workspace,
        profile_name: str,
        models: "List[Model]",
        inference_config: Any,
        input_dataset: Any = None,
        cpu: Optional[float] = None,
        memory_in_gb: Optional[float] = None,
        description: Optional[str] = None,
        input_data: Any = None,
    ) -> Any:
        """A ModelProfile: what a service of these takes, measured with the requests in the dataset's first column.

        ``input_data``: one request's body, as v1 once took it.
        """
        from runyard.sdk.model_profile import profile

        asked = input_dataset if input_data is None else input_data
        return profile(workspace, profile_name, models, inference_config, asked, cpu, memory_in_gb)

    @staticmethod
    def print_configuration(
        models: "List[Model]", inference_config: Any, deployment_config: Any, deployment_target: Any
    ) -> None:
        """Print what ``deploy`` would be given: models, target, script, environment and settings."""
        from runyard.sdk.deployment import print_configuration

        print_configuration(models, inference_config, deployment_config, deployment_target)

    @staticmethod
    def get_model_path(model_name: str, version: Optional[int] = None, _workspace: Any = None) -> str:
        """Where a service finds the model: azureml-models/<name>/<version>, else ./<name>."""
        root = os.path.join("azureml-models", model_name)
        if os.path.isdir(root):
            versions = sorted((int(one) for one in os.listdir(root) if one.isdigit()), reverse=True)
            for one in versions:
                if version is None or one == version:
                    folder = os.path.join(root, str(one))
                    entries = os.listdir(folder)
                    return os.path.join(folder, entries[0]) if len(entries) == 1 else folder
        if os.path.exists(model_name):
            return model_name
        raise ModelNotFoundException(f"Model {model_name!r} is not in azureml-models/ and not in this folder.")

    def download(self, target_dir: str = ".", exist_ok: bool = False, exists_ok: Optional[bool] = None) -> str:
        """Download the files below ``target_dir``; returns the path of the file or folder that the model is."""
        allowed = exist_ok if exists_ok is None else exists_ok
        for one in self._record.files:
            target = os.path.join(target_dir, *one.path.split("/"))
            if os.path.exists(target) and not allowed:
                raise UserErrorException(f"{target} exists already; pass exist_ok=True.")
            receive_blob(current_server(), self.workspace.name, one.digest, target, partial(self._pieces, one.path))
        tops = {one.path.split("/")[0] for one in self._record.files}
        return os.path.join(target_dir, tops.pop()) if len(tops) == 1 else target_dir

    def _pieces(self, path: str) -> Iterable[bytes]:
        return current_server().stream(
            "read_model_file", workspace=self.workspace.name, name=self.name, version=self.version, path=path
        )

    def update(
        self,
        tags: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        sample_input_dataset: Any = None,
        sample_output_dataset: Any = None,
        resource_configuration: Optional[ResourceConfiguration] = None,
    ) -> None:
        """Replace what is given; a service that is deployed already keeps the resources that it has."""
        _say_samples(sample_input_dataset, sample_output_dataset)
        texts = None if tags is None else label_texts(tags)
        removed = () if texts is None else tuple(key for key in self.tags if key not in texts)
        self._change(models.ModelChange(description, texts, removed, resources=_needs(resource_configuration)))

    def add_tags(self, tags: Dict[str, str]) -> None:
        """Add tags."""
        self._change(models.ModelChange(tags=label_texts(tags)))

    def remove_tags(self, tags: Any) -> None:
        """Take tags away, by their names."""
        self._change(models.ModelChange(remove_tags=(tags,) if isinstance(tags, str) else tuple(tags or ())))

    def add_properties(self, properties: Dict[str, str]) -> None:
        """Add properties; one that exists cannot change."""
        self._change(models.ModelChange(properties=label_texts(properties)))

    def add_dataset_references(self, datasets: Any) -> None:
        """Say which datasets it came from: pairs of a purpose and a Dataset; one that has no id yet is saved."""
        for one in datasets if isinstance(datasets, (list, tuple)) else [None]:
            if not (isinstance(one, (list, tuple)) and len(one) == 2 and hasattr(one[1], "_ensure_saved")):
                raise WebserviceException(f"datasets is a list of pairs of a purpose and a Dataset, not {datasets!r}.")
        saved = tuple((str(purpose), dataset._ensure_saved(self.workspace)) for purpose, dataset in datasets)
        self._change(models.ModelChange(datasets=saved))

    def get_sas_urls(self) -> Dict[str, str]:
        """WebserviceException: a model's files have no signed addresses."""
        raise WebserviceException(f"The files of {self.id} have no signed addresses: download() fetches them.")

    def delete(self) -> None:
        """Delete this version; its number is not given again."""
        self.workspace._call("delete_model", name=self.name, version=self.version)

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "framework": self.model_framework,
            "frameworkVersion": self.model_framework_version,
            "description": self.description,
            "runId": self.run_id,
            "experimentName": self.experiment_name,
            "createdBy": self.created_by,
            "tags": self.tags,
            "properties": self.properties,
        }

    def _change(self, change: models.ModelChange) -> None:
        self._record = self.workspace._call("change_model", change, name=self.name, version=self.version)

    def __repr__(self) -> str:
        return f"Model(workspace={self.workspace.name!r}, name={self.name}, id={self.id}, version={self.version})"


def register_from_run(
    run: "Run",
    model_name: str,
    model_path: str,
    tags: Any,
    properties: Any,
    framework: Optional[str],
    framework_version: Optional[str],
    description: Optional[str],
    datasets: Any,
    resources: Optional[ResourceConfiguration],
) -> Model:
    """Register files of a run's record."""
    workspace = run.experiment.workspace
    spec = _spec(
        model_name, tags, properties, framework, framework_version, description, datasets, resources,
        run_id=run.id, path=model_path.strip("/"),
    )  # fmt: skip
    return Model(workspace, _record=workspace._call("register_model", spec))


def _spec(
    name: str,
    tags: Any,
    properties: Any,
    framework: Optional[str],
    framework_version: Optional[str],
    description: Optional[str],
    datasets: Any,
    resources: Optional[ResourceConfiguration],
    **source: Any,
) -> models.ModelSpec:
    if framework_version is not None and framework is None:
        raise UserErrorException("model_framework_version needs model_framework.")
    pairs = tuple((str(role), str(dataset.id)) for role, dataset in datasets or () if dataset.id)
    return models.ModelSpec(
        name=name,
        tags=label_texts(tags),
        properties=label_texts(properties),
        framework=framework or Framework.CUSTOM,
        framework_version=framework_version,
        description=description or "",
        resources=_needs(resources),
        datasets=pairs,
        **source,
    )


def _needs(resources: Optional[ResourceConfiguration]) -> Optional[models.ResourceNeeds]:
    if not isinstance(resources, (ResourceConfiguration, type(None))):
        raise UserErrorException(
            f"resource_configuration is a ResourceConfiguration(cpu, memory_in_gb, gpu), not {resources!r}."
        )
    return None if resources is None else models.ResourceNeeds(resources.cpu, resources.memory_in_gb, resources.gpu)


def _say_samples(sample_input: Any, sample_output: Any) -> None:
    for name, sample in (("sample_input_dataset", sample_input), ("sample_output_dataset", sample_output)):
        if sample is not None:
            say_once(f"{name!r} changes nothing here: a service's swagger.json says what it takes and gives.")


def _find(
    workspace: Workspace,
    name: Optional[str],
    id: Optional[str],
    tags: Any,
    properties: Any,
    version: Optional[int],
    run_id: Optional[str],
    framework: Optional[str],
) -> models.Model:
    if id is not None:
        name, _, text = id.rpartition(":")
        version = int(text) if text.isdigit() else None
    if name is None:
        raise UserErrorException("A model is found by its name or id.")
    if tags is None and properties is None and run_id is None and framework is None:
        found: models.Model = workspace._call("get_model", query={"version": version}, name=name)
        return found
    several = Model.list(workspace, name, tags, properties, run_id, model_framework=framework)
    for one in several:
        if version is None or one.version == version:
            return one._record
    raise ModelNotFoundException(f"No model {name!r} has these labels.")


def _local_files(path: str, children: Optional[Union[str, Sequence[str]]]) -> Any:
    """(files under the names that they get, digest -> path) of a file or folder, or of these below it alone."""
    root = os.path.abspath(path) if isinstance(path, (str, os.PathLike)) else ""
    if not os.path.exists(root):
        raise UserErrorException(f"The model path {path!r} does not exist.")
    parent = os.path.dirname(root)
    named = [children] if isinstance(children, (str, os.PathLike)) else children
    if not isinstance(named, (list, tuple, set, frozenset, type(None))):
        raise UserErrorException(f"child_paths is a list of files and folders below {path!r}, not {children!r}.")
    tops = [root] if named is None else [_child(root, path, one) for one in named]
    files, blobs = [], {}
    for one in dict.fromkeys(file for top in tops for file in _files_below(top)):
        digest, size_bytes = hash_file(one)
        files.append(Artifact(os.path.relpath(one, parent).replace(os.sep, "/"), digest, size_bytes))
        blobs[digest] = one
    return files, blobs


def _child(root: str, path: str, child: Any) -> str:
    """Where that part of the model's folder is; UserErrorException where it is none."""
    if not os.path.isdir(root):
        raise UserErrorException(f"child_paths are parts of a folder, and the model path {path!r} is a file.")
    found = os.path.normpath(os.path.join(root, child)) if isinstance(child, (str, os.PathLike)) else ""
    if not (found + os.sep).startswith(root.rstrip(os.sep) + os.sep) or not os.path.exists(found):
        raise UserErrorException(f"child_paths names {child!r}, which is no file or folder below {path!r}.")
    return found


def _files_below(top: str) -> "List[str]":
    if os.path.isfile(top):
        return [top]
    return [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in sorted(names)]

"""ContainerImage: v1's older way to deploy. An image is its models, its script and its environment, under a name.

No server keeps images: one is known to the program that has created it, and what is deployed from it is a service.
"""

import os
from typing import Any, Dict, List, Optional, Sequence

from runyard.errors import WebserviceException
from runyard.sdk.inference_config import NO_IMAGE, InferenceConfig
from runyard.sdk.labels import label_texts
from runyard.sdk.model import Model
from runyard.sdk.notices import say_kept_of
from runyard.sdk.workspace import Workspace


class ImageConfig:
    """What ``ContainerImage.image_configuration`` gives."""

    def __init__(self, given: Dict[str, Any]) -> None:
        self.execution_script: str = given["execution_script"]
        self.runtime: str = given["runtime"]
        self.conda_file: Optional[str] = given["conda_file"]
        self.dependencies: List[str] = list(given["dependencies"] or ())
        self.tags: Dict[str, str] = dict(given["tags"] or {})
        self.properties: Dict[str, str] = dict(given["properties"] or {})
        self.description: Optional[str] = given["description"]

    def inference_config(self) -> InferenceConfig:
        """The same as an InferenceConfig: the script, and what it depends on, beside it in its folder."""
        if os.path.dirname(self.execution_script):
            raise WebserviceException("The execution_script is in the current folder, as v1 wanted it.")
        for one in self.dependencies:
            if not os.path.exists(one):
                raise WebserviceException(f"The dependency {one!r} does not exist.")
        conda_file = None if self.conda_file is None else os.path.abspath(self.conda_file)
        return InferenceConfig(
            self.execution_script, runtime=self.runtime, conda_file=conda_file, source_directory=os.getcwd(),
            description=self.description,
        )  # fmt: skip


class Image:
    """v1's name for what a service is made from. Nothing is built: a service's environment is, at its deployment."""

    workspace: Workspace
    name: str
    models: List[Model]
    image_config: ImageConfig
    tags: Dict[str, str]
    properties: Dict[str, str]
    description: Optional[str]
    version = 1
    creation_state = "Succeeded"

    def __init__(
        self,
        workspace: Workspace,
        name: Optional[str] = None,
        id: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,
        version: Any = None,
    ) -> None:
        """v1 found an image so: WebserviceException says what to call instead."""
        raise not_kept(f"Image {name or id or ''!r}")

    @staticmethod
    def list(
        workspace: Workspace,
        image_name: Optional[str] = None,
        model_name: Optional[str] = None,
        model_id: Optional[str] = None,
        tags: Any = None,
        properties: Any = None,
        run_id: Optional[str] = None,
    ) -> "List[Image]":
        """WebserviceException says what to call instead: an empty list would say that there are none."""
        raise not_kept("A list of images")

    @property
    def id(self) -> str:
        """name:version."""
        return f"{self.name}:{self.version}"

    @property
    def image_location(self) -> str:
        """Where v1 had the image; there is none here."""
        return f"runyard/{self.name}:{self.version}"

    image_build_log_uri = None

    @staticmethod
    def create(workspace: Workspace, name: str, models: Sequence[Any], image_config: ImageConfig) -> "Image":
        """The models and the configuration under a name, for as long as this object is there; files are registered as
        models first."""
        found = [one if isinstance(one, Model) else register_path(workspace, str(one)) for one in models]
        image_config.inference_config().validation_script_content()
        image = object.__new__(ContainerImage)
        image.workspace, image.name, image.models, image.image_config = workspace, name, found, image_config
        image.tags, image.properties = dict(image_config.tags), dict(image_config.properties)
        image.description = image_config.description
        return image

    @staticmethod
    def image_configuration(
        execution_script: str,
        runtime: str = "python",
        conda_file: Optional[str] = None,
        docker_file: Optional[str] = None,
        schema_file: Optional[str] = None,
        dependencies: Optional[Sequence[str]] = None,
        enable_gpu: Optional[bool] = None,
        tags: Optional[Dict[str, str]] = None,
        properties: Optional[Dict[str, str]] = None,
        description: Optional[str] = None,
        base_image: Optional[str] = None,
        base_image_registry: Any = None,
        cuda_version: Optional[str] = None,
    ) -> ImageConfig:
        """The script, its environment's conda file, and files beside it."""
        given = dict(locals())
        say_kept_of({"docker_file": docker_file, "base_image": base_image}, NO_IMAGE)
        return ImageConfig(given)

    def wait_for_creation(self, show_output: bool = False) -> None:
        """Nothing is waited for; the sentence is v1's."""
        if show_output:
            print(f'Image creation operation finished for image {self.id}, operation "Succeeded"')

    def update_creation_state(self) -> None:
        """Nothing changes."""

    def add_tags(self, tags: Dict[str, str]) -> None:
        """More tags, of this object."""
        self.tags.update(label_texts(tags))

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Fewer of them; those that are not there are fine."""
        for name in [tags] if isinstance(tags, str) else tags:
            self.tags.pop(name, None)

    def add_properties(self, properties: Dict[str, str]) -> None:
        """More properties; WebserviceException for another value of one that is there."""
        given = label_texts(properties)
        for name, text in given.items():
            if self.properties.get(name, text) != text:
                raise WebserviceException(f"The property {name!r} is there already and cannot change.")
        self.properties.update(given)

    def delete(self) -> None:
        """Nothing is left of it."""

    def serialize(self) -> Dict[str, Any]:
        """Plain data in v1's keys."""
        return {
            "id": self.id, "name": self.name, "version": self.version, "creationState": self.creation_state,
            "imageLocation": self.image_location, "modelIds": [one.id for one in self.models], "tags": self.tags,
        }  # fmt: skip

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name}, id={self.id})"


def not_kept(what: str) -> WebserviceException:
    """For whoever looks for an image that another program has created."""
    return WebserviceException(
        f"{what} cannot be had: images are not kept, but known to the program alone that has created them. Create "
        "it again with ContainerImage.create(), or deploy with Model.deploy(workspace, name, models, "
        "InferenceConfig(...)); Webservice.list(workspace, model_name=...) finds what is deployed."
    )


def register_path(workspace: Workspace, path: str) -> Model:
    """A file or folder as a model of its own name."""
    return Model.register(workspace, path, os.path.basename(path.rstrip("/")))


class ContainerImage(Image):
    """The one kind of image that most notebooks made."""

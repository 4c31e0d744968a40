"""Which builder an environment gets on this host, and why."""

import os
from typing import Optional, Tuple

from runyard.environments.engine import Engine, find_engine
from runyard.environments.image import OWN_IMAGES, described, has_own_image, image_source
from runyard.environments.pins import needs_conda
from runyard.environments.with_conda import find_conda
from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import Builder, EnvironmentSpec, ImageSource, Note
from runyard.protocol.record import record

#: "uv", "conda" or "docker": takes that one for every environment that it can build; unset: what the file needs.
BUILDER_VARIABLE = "RUNYARD_BUILDER"


@record
class Choice:
    """A builder, and why it is that one."""

    builder: str
    #: One sentence.
    why: str
    #: For docker.
    image: Optional[ImageSource] = None
    #: For conda: its program.
    conda: str = ""
    #: What is not done, since there is no such builder here.
    notes: Tuple[Note, ...] = ()


def choose_builder(spec: EnvironmentSpec) -> Choice:
    """The builder of ``spec`` on this host; EnvironmentBuildError where it is only an image and no engine answers."""
    wanted = _wanted()
    if wanted != Builder.CONDA and wanted != Builder.UV and (has_own_image(spec.docker) or wanted == Builder.DOCKER):
        return _with_image(spec, find_engine(), is_asked=wanted == Builder.DOCKER)
    if spec.python.user_managed:
        if has_own_image(spec.docker):
            raise _needs_engine(spec, f"{BUILDER_VARIABLE} asks for {wanted}")
        return Choice(Builder.USER_MANAGED, "The interpreter is its user's own: nothing is installed.")
    notes = _image_notes(spec)
    needed = needs_conda(spec.python.conda)
    if wanted == Builder.CONDA or (needed and wanted != Builder.UV):
        tool = find_conda()
        if tool is not None:
            reason = f"{BUILDER_VARIABLE} asks for it" if wanted == Builder.CONDA else f"{needed[0]} is no pip package"
            return Choice(Builder.CONDA, f"Built by {os.path.basename(tool)}: {reason}.", conda=tool, notes=notes)
        if wanted == Builder.CONDA:
            raise EnvironmentBuildError(
                f"{BUILDER_VARIABLE} asks for conda, and this host has no conda, mamba or micromamba on its PATH."
            )
    return Choice(Builder.UV, _why_uv(spec, needed), notes=notes)


def _wanted() -> str:
    wanted = os.environ.get(BUILDER_VARIABLE, "").strip()
    if wanted not in ("", Builder.UV, Builder.CONDA, Builder.DOCKER):
        raise EnvironmentBuildError(f"{BUILDER_VARIABLE} is uv, conda or docker, not {wanted!r}.")
    return wanted


def _with_image(spec: EnvironmentSpec, engine: Optional[Engine], is_asked: bool) -> Choice:
    source = image_source(spec.docker)
    if engine is not None:
        reason = f"{BUILDER_VARIABLE} asks for it" if is_asked else f"the environment names {described(source)}"
        return Choice(Builder.DOCKER, f"Built by {engine.kind}, as an image: {reason}.", source)
    if is_asked:
        raise EnvironmentBuildError(
            f"{BUILDER_VARIABLE} asks for docker, and no container engine answers on this host."
        )
    if spec.python.user_managed:
        raise _needs_engine(spec, "no container engine answers on this host")
    needed = needs_conda(spec.python.conda)
    return Choice(Builder.UV, _why_uv(spec, needed), notes=_image_notes(spec))


def _needs_engine(spec: EnvironmentSpec, why: str) -> EnvironmentBuildError:
    return EnvironmentBuildError(
        f"The environment is only {described(image_source(spec.docker))}, and {why}.",
        hint="Start Docker or install Podman; or list the packages in a conda file, which needs neither.",
    )


def _why_uv(spec: EnvironmentSpec, needed: Tuple[str, ...]) -> str:
    if needed:
        return f"Built by uv, though {needed[0]} is no pip package: this host has no conda, mamba or micromamba."
    image = spec.docker.base_image or ""
    if spec.docker.enabled and image.startswith(OWN_IMAGES):
        return "Built by uv: Azure's own images hold MPI and CUDA, and no package that the environment lists."
    return "Built by uv: every package is pip's, or has a name there."


def _image_notes(spec: EnvironmentSpec) -> Tuple[Note, ...]:
    """What is not done with an image of one's own."""
    if not has_own_image(spec.docker):
        return ()
    why = "packages are installed beside this machine's own libraries, since no container engine answers here"
    if spec.docker.base_image and not spec.docker.base_dockerfile:
        return (Note("docker.base_image", spec.docker.base_image, "", why),)
    return (Note("docker.base_dockerfile", "a Dockerfile", "", why),)

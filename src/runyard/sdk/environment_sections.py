"""The sections of an environment: python, docker, and those that are only kept."""

import json
from dataclasses import replace
from typing import Any, Dict, List, Optional

from runyard.protocol.environments import DockerSpec, PythonSpec
from runyard.sdk.conda_dependencies import CondaDependencies, read_file
from runyard.sdk.container_registry import ContainerRegistry, DockerBuildContext

#: v1's default images, by name; kept with a run, used by a docker builder.
DEFAULT_MMLSPARK_CPU_IMAGE = "microsoft/mmlspark:0.12"
DEFAULT_CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi3.1.2-ubuntu18.04"
DEFAULT_GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi3.1.2-cuda10.1-cudnn7-ubuntu18.04"


class DockerSection:
    """``environment.docker``: the image, where a container engine answers; kept and explained elsewhere."""

    def __init__(self, spec: Optional[DockerSpec] = None) -> None:
        known = spec or DockerSpec(base_image=DEFAULT_CPU_IMAGE)
        self.enabled = known.enabled
        self.base_image = known.base_image
        self.base_dockerfile = known.base_dockerfile
        self.arguments: List[str] = list(known.arguments)
        self.shm_size = known.shm_size
        self.gpu_support = known.gpu_support
        self.shared_volumes = not known.without_shared_volumes
        self.base_image_registry: Any = ContainerRegistry._of(known.registry)
        self.platform: Any = None
        self.build_context: Optional[DockerBuildContext] = None
        if known.build_context is not None:
            self.build_context = DockerBuildContext(
                "stored", known.build_context, known.dockerfile_path or "Dockerfile"
            )

    def _spec(self) -> DockerSpec:
        return DockerSpec(
            enabled=bool(self.enabled),
            base_image=self.base_image,
            base_dockerfile=self.base_dockerfile,
            arguments=tuple(str(one) for one in self.arguments or ()),
            shm_size=self.shm_size,
            gpu_support=bool(self.gpu_support),
            without_shared_volumes=not self.shared_volumes,
            registry=None if self.base_image_registry is None else self.base_image_registry._spec(),
            build_context=None if self.build_context is None else self.build_context.location,
            dockerfile_path=None if self.build_context is None else self.build_context.dockerfile_path,
        )


class DockerConfiguration:
    """The container's settings beside an environment: what ScriptRunConfig takes as ``docker_runtime_config``."""

    def __init__(
        self,
        use_docker: bool = False,
        shared_volumes: bool = True,
        arguments: Any = (),
        shm_size: Optional[str] = None,
    ) -> None:
        self.use_docker = use_docker
        self.shared_volumes = shared_volumes
        self.arguments: List[str] = [str(one) for one in arguments or ()]
        self.shm_size = shm_size

    def _over(self, spec: DockerSpec) -> DockerSpec:
        """``spec`` with what is said here: it comes later, and so it counts."""
        return replace(
            spec,
            enabled=bool(self.use_docker),
            arguments=tuple(self.arguments) or spec.arguments,
            shm_size=self.shm_size or spec.shm_size,
        )


class PythonSection:
    """``environment.python``."""

    def __init__(self, spec: Optional[PythonSpec] = None) -> None:
        known = spec or PythonSpec()
        self.user_managed_dependencies = known.user_managed
        self.interpreter_path = known.interpreter_path
        self.conda_dependencies = CondaDependencies(_underlying_structure=known.conda)
        self.as_of: Any = known.as_of
        self.exact_only = known.exact_only
        self.conda_dependencies_file: Optional[str] = None

    def _spec(self) -> PythonSpec:
        conda = self.conda_dependencies._spec
        if self.conda_dependencies_file is not None:
            conda = read_file(self.conda_dependencies_file)
        return PythonSpec(
            user_managed=bool(self.user_managed_dependencies),
            interpreter_path=self.interpreter_path or "python",
            conda=conda,
            as_of=self.as_of.isoformat()[:10] if hasattr(self.as_of, "isoformat") else self.as_of,
            exact_only=self.exact_only,
        )


class SparkPackage:
    """A package of ``environment.spark``."""

    def __init__(
        self, group: Optional[str] = None, artifact: Optional[str] = None, version: Optional[str] = None
    ) -> None:
        self.group = group
        self.artifact = artifact
        self.version = version


class SparkSection:
    """``environment.spark``: kept and given back; nothing here runs on Spark."""

    def __init__(self, **fields: Any) -> None:
        self.repositories: List[str] = list(fields.get("repositories") or [])
        self.packages: List[SparkPackage] = [SparkPackage(**one) for one in fields.get("packages") or []]
        self.precache_packages = bool(fields.get("precachePackages", True))

    def _text(self) -> str:
        """As in v1's JSON; '' where nothing was said."""
        if not self.repositories and not self.packages and self.precache_packages:
            return ""
        packages = [vars(one) for one in self.packages]
        found = {"repositories": self.repositories, "packages": packages, "precachePackages": self.precache_packages}
        return json.dumps(found, sort_keys=True)


class RSection:
    """``environment.r``: kept and given back; no R is installed."""

    def __init__(self, **fields: Any) -> None:
        self.r_version = fields.get("rVersion")
        self.user_managed = bool(fields.get("userManaged"))
        self.rscript_path = fields.get("rscriptPath")
        self.snapshot_date = fields.get("snapshotDate")
        self.cran_packages: List[Dict[str, Any]] = list(fields.get("cranPackages") or [])
        self.github_packages: List[Dict[str, Any]] = list(fields.get("gitHubPackages") or [])
        self.custom_url_packages: List[str] = list(fields.get("customUrlPackages") or [])
        self.bioconductor_packages: List[str] = list(fields.get("bioConductorPackages") or [])

    def _text(self) -> str:
        return json.dumps(
            {
                "rVersion": self.r_version,
                "userManaged": self.user_managed,
                "rscriptPath": self.rscript_path,
                "snapshotDate": self.snapshot_date,
                "cranPackages": [one if isinstance(one, dict) else vars(one) for one in self.cran_packages],
                "gitHubPackages": [one if isinstance(one, dict) else vars(one) for one in self.github_packages],
                "customUrlPackages": self.custom_url_packages,
                "bioConductorPackages": self.bioconductor_packages,
            },
            sort_keys=True,
        )


def kept_sections(spark: SparkSection, r: Optional[RSection]) -> Dict[str, str]:
    """The sections that mean nothing here, as far as they say anything."""
    found = {"spark": spark._text(), "r": "" if r is None else r._text()}
    return {name: text for name, text in found.items() if text}

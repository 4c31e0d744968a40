"""CondaDependencies: what an environment's Python holds, as a conda file says it."""

import dataclasses
from pathlib import Path
from typing import Any, List, Optional, Sequence

from runyard.errors import UserErrorException
from runyard.protocol.environments import CondaSpec


class CondaDependencies:
    """Conda and pip packages, and the Python itself."""

    def __init__(self, conda_dependencies_file_path: Optional[str] = None, _underlying_structure: Any = None) -> None:
        self._spec = CondaSpec()
        if isinstance(_underlying_structure, CondaSpec):
            self._spec = _underlying_structure
        elif conda_dependencies_file_path is not None:
            self._spec = read_file(conda_dependencies_file_path)

    @staticmethod
    def create(
        pip_indexurl: Optional[str] = None,
        pip_packages: Optional[Sequence[str]] = None,
        conda_packages: Optional[Sequence[str]] = None,
        python_version: Optional[str] = None,
        pin_sdk_version: bool = True,
        **_: Any,
    ) -> "CondaDependencies":
        """Packages from lists. Without ``python_version`` it is the Python of the server's machine."""
        found = CondaDependencies()
        if pip_indexurl is not None:
            found._change(pip=("--index-url " + pip_indexurl,))
        if python_version is not None:
            found.set_python_version(python_version)
        for package in conda_packages or ():
            found.add_conda_package(package)
        for package in pip_packages or ():
            found.add_pip_package(package)
        return found

    @property
    def conda_packages(self) -> List[str]:
        """Conda's packages, Python among them."""
        return list(self._spec.packages)

    @property
    def pip_packages(self) -> List[str]:
        """pip's requirements."""
        return [line for line in self._spec.pip if not line.startswith("-")]

    @property
    def conda_channels(self) -> List[str]:
        """Conda's channels."""
        return list(self._spec.channels)

    @property
    def python_version(self) -> Optional[str]:
        """The Python asked for, as '3.8'; None if none is."""
        for line in self._spec.packages:
            if line.replace(" ", "").startswith("python="):
                return line.replace(" ", "")[len("python") :].lstrip("=")
        return None

    def add_conda_package(self, conda_package: str) -> None:
        """Add a conda package; one of that name is replaced."""
        self._change(packages=_replaced(self._spec.packages, conda_package))

    def add_tensorflow_conda_package(self, core_type: str = "cpu", version: Optional[str] = None) -> None:
        """Add conda's tensorflow, or tensorflow-gpu where ``core_type`` is 'gpu'."""
        if core_type not in ("cpu", "gpu"):
            raise UserErrorException(f"core_type is 'cpu' or 'gpu', not {core_type!r}.")
        name = "tensorflow" if core_type == "cpu" else "tensorflow-gpu"
        self.add_conda_package(name if version is None else f"{name}={version}")

    def add_pip_package(self, pip_package: str) -> None:
        """Add a requirement for pip; one of that name is replaced."""
        self._change(pip=_replaced(self._spec.pip, pip_package))

    def remove_conda_package(self, conda_package: str) -> None:
        """Remove a conda package."""
        self._change(packages=tuple(one for one in self._spec.packages if _stem(one) != _stem(conda_package)))

    def remove_pip_package(self, pip_package: str) -> None:
        """Remove a requirement for pip."""
        self._change(pip=tuple(one for one in self._spec.pip if _stem(one) != _stem(pip_package)))

    def add_channel(self, channel: str) -> None:
        """Add a conda channel."""
        if channel not in self._spec.channels:
            self._change(channels=self._spec.channels + (channel,))

    def set_python_version(self, version: str) -> None:
        """Ask for that Python."""
        self.add_conda_package(f"python={version}")

    def set_pip_requirements(self, pip_requirements: Sequence[str]) -> None:
        """Replace all requirements for pip."""
        self._change(pip=tuple(pip_requirements))

    def serialize_to_string(self) -> str:
        """The conda file's text."""
        from runyard.environments.spec import write_conda_yaml

        return write_conda_yaml(self._spec)

    def as_dict(self) -> Any:
        """The conda file as plain data."""
        packages: List[Any] = list(self._spec.packages)
        if self._spec.pip:
            packages.append({"pip": list(self._spec.pip)})
        return {"name": self._spec.name, "channels": list(self._spec.channels), "dependencies": packages}

    def save_to_file(self, base_directory: str, conda_file_path: Optional[str] = None) -> str:
        """Write the conda file; returns its name."""
        name = conda_file_path or "conda_dependencies.yml"
        path = Path(base_directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.serialize_to_string())
        return name

    def save(self, path: Optional[str] = None) -> None:
        """Write the conda file to a path."""
        Path(path or "conda_dependencies.yml").write_text(self.serialize_to_string())

    def _change(self, **fields: Any) -> None:
        self._spec = dataclasses.replace(self._spec, **fields)


def read_file(path: str) -> CondaSpec:
    """A conda file; UserErrorException says what is wrong with it."""
    from runyard.environments.spec import read_conda_yaml

    try:
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise UserErrorException(f"The conda file {path!r} cannot be read: {error.strerror}.") from None
    return read_conda_yaml(text, f"The conda file {path!r}")


def _replaced(lines: Sequence[str], line: str) -> Any:
    kept = [one for one in lines if _stem(one) != _stem(line)]
    return tuple(kept + [line])


def _stem(line: str) -> str:
    text = line.strip()
    for place, character in enumerate(text):
        if character in "=<>!~[; @":
            return text[:place].lower() if place else text.lower()
    return text.lower()

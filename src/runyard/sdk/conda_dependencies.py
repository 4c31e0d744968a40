"""CondaDependencies: what an environment's Python holds, as a conda file says it."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from runyard.errors import UserErrorException
from runyard.files.text import read_text
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
    def pip_options(self) -> List[str]:
        """pip's options, each a line of a requirements file."""
        return [line for line in self._spec.pip if line.startswith("-")]

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
        name = _tensorflow(core_type)
        self.add_conda_package(name if version is None else f"{name}={version}")

    def add_tensorflow_pip_package(self, core_type: str = "cpu", version: Optional[str] = None) -> None:
        """Add pip's tensorflow, or tensorflow-gpu where ``core_type`` is 'gpu'."""
        name = _tensorflow(core_type)
        self.add_pip_package(name if version is None else f"{name}=={version}")

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

    def remove_channel(self, channel: str) -> None:
        """Remove a conda channel."""
        self._change(channels=tuple(one for one in self._spec.channels if one != channel))

    def get_python_version(self) -> Optional[str]:
        """As ``python_version``."""
        return self.python_version

    def set_python_version(self, version: str) -> None:
        """Ask for that Python."""
        self.add_conda_package(f"python={version}")

    def set_pip_index_url(self, index_url: str) -> None:
        """Let pip ask that index."""
        self.set_pip_option("--index-url " + index_url)

    def set_pip_option(self, pip_option: str) -> None:
        """Give pip an option, as a line of a requirements file; of those that stand once the last one counts."""
        option = pip_option.strip()
        if not option.startswith("-"):
            raise UserErrorException(f"An option of pip begins with '-', not as {pip_option!r} does.")
        replaced = (option,) if _option(option) in _REPEATABLE else (option, _option(option))
        kept = [one for one in self._spec.pip if one not in replaced and _option(one) not in replaced]
        options = [one for one in kept if one.startswith("-")]
        self._change(pip=(*options, option, *[one for one in kept if not one.startswith("-")]))

    def remove_pip_option(self, pip_option: str) -> None:
        """Remove an option of pip: that very line, or all of that name."""
        option = pip_option.strip()
        self._change(pip=tuple(one for one in self._spec.pip if option not in (one, _option(one))))

    def set_pip_requirements(self, pip_requirements: Sequence[str]) -> None:
        """Replace all requirements for pip."""
        self._change(pip=tuple(pip_requirements))

    def merge_requirements(self, requirements: Sequence[str]) -> List[str]:
        """The requirements, those of one package as one that asks for all that they ask for."""
        merged: Dict[str, List[str]] = {}
        for line in requirements:
            name, limits = _parted(line)
            asked = merged.setdefault(name, [])
            asked.extend(one for one in limits if one not in asked)
        return [name + ",".join(limits) for name, limits in merged.items()]

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


#: Options that stand more than once.
_REPEATABLE = ("--extra-index-url", "--find-links", "-f", "--trusted-host", "-e", "--editable")


def _option(line: str) -> str:
    """The option's name in a line of options; '' for a requirement."""
    return re.split(r"[ =]", line.strip(), maxsplit=1)[0] if line.startswith("-") else ""


def _tensorflow(core_type: str) -> str:
    if core_type not in ("cpu", "gpu"):
        raise UserErrorException(f"core_type is 'cpu' or 'gpu', not {core_type!r}.")
    return "tensorflow" if core_type == "cpu" else "tensorflow-gpu"


def _parted(line: str) -> Tuple[str, List[str]]:
    """A requirement's name, with its extras, and its limits; one with a marker or an address is a name in whole."""
    found = re.match(r"\s*([A-Za-z0-9._-]+\s*(?:\[[^\]]*\])?)\s*((?:[<>=!~][^;@]*)?)$", line)
    if found is None:
        return line.strip(), []
    return found.group(1).replace(" ", ""), [one.strip() for one in found.group(2).split(",") if one.strip()]


def read_file(path: str) -> CondaSpec:
    """A conda file; UserErrorException says what is wrong with it."""
    from runyard.environments.spec import read_conda_yaml

    what = f"The conda file {path!r}"
    return read_conda_yaml(read_text(path, what), what)


def _replaced(lines: Sequence[str], line: str) -> Any:
    kept = [one for one in lines if _stem(one) != _stem(line)]
    return tuple(kept + [line])


def _stem(line: str) -> str:
    text = line.strip()
    for place, character in enumerate(text):
        if character in "=<>!~[; @":
            return text[:place].lower() if place else text.lower()
    return text.lower()

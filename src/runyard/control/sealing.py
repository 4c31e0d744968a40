"""Passwords inside environments: encrypted where they are kept, in clear only while a tool of the server needs them.

Equal passwords of one host have one sealed form, so that equal environments keep equal keys; it opens for that host
alone, so that nobody sends another's password elsewhere.
"""

import re
from dataclasses import replace
from typing import Callable, Optional, Tuple

from runyard.errors import EnvironmentBuildError
from runyard.protocol.environments import SEALED, EnvironmentSpec, ImageSource, Lock, RegistrySpec
from runyard.storage.sealing import HostSeal

#: Scheme, user and password, host; a password may hold a bare slash, as in protocol/environments.py.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://)([^\s/?#'\"<>`]*|[^\s/?#:@]+:(?!\d+[/?#])[^\s@]*)@([^\s/?#'\"<>`@]+)")


class Sealer:
    """Seals and opens the passwords of specs and locks."""

    def __init__(self, key: HostSeal) -> None:
        self._key = key

    def seal_spec(self, spec: EnvironmentSpec) -> EnvironmentSpec:
        """``spec`` with every password sealed; what is sealed already stays."""
        return _changed_spec(spec, self._seal)

    def open_spec(self, spec: EnvironmentSpec) -> EnvironmentSpec:
        """``spec`` as its author wrote it; EnvironmentBuildError where the home's key is another one."""
        return _changed_spec(spec, self._open)

    def seal_lock(self, lock: Lock) -> Lock:
        """As seal_spec; its digest stays that of the clear text."""
        return _changed_lock(lock, self._seal)

    def open_lock(self, lock: Lock) -> Lock:
        """As open_spec."""
        return _changed_lock(lock, self._open)

    def _seal(self, secret: str, host: str) -> str:
        if secret.startswith(SEALED) and self._key.open(secret[len(SEALED) :], host) is not None:
            return secret
        return SEALED + self._key.seal(secret, host)

    def _open(self, secret: str, host: str) -> str:
        if not secret.startswith(SEALED):
            return secret
        found = self._key.open(secret[len(SEALED) :], host)
        if found is None:
            raise EnvironmentBuildError(
                f"The password for {host} cannot be read with {self._key.key_file.name}, or is another host's.",
                hint="Put it into the environment again.",
            )
        return found


Change = Callable[[str, str], str]


def _changed_spec(spec: EnvironmentSpec, change: Change) -> EnvironmentSpec:
    conda = spec.python.conda
    changed = replace(
        conda, pip=_lines(conda.pip, change), packages=_lines(conda.packages, change),
        channels=_lines(conda.channels, change),
    )  # fmt: skip
    docker = spec.docker
    if docker.registry is not None or docker.base_dockerfile:
        text = docker.base_dockerfile
        docker = replace(
            docker,
            registry=_registry(docker.registry, change),
            base_dockerfile=None if text is None else _line(text, change),
        )
    if changed == conda and docker == spec.docker:
        return spec
    return replace(spec, python=replace(spec.python, conda=changed), docker=docker)


def _changed_lock(lock: Lock, change: Change) -> Lock:
    image: Optional[ImageSource] = lock.image
    if image is not None:
        image = replace(image, registry=_registry(image.registry, change), dockerfile=_line(image.dockerfile, change))
    return replace(
        lock, requirements=_lines(lock.requirements, change), options=_lines(lock.options, change),
        channels=_lines(lock.channels, change), image=image,
    )  # fmt: skip


def _registry(registry: Optional[RegistrySpec], change: Change) -> Optional[RegistrySpec]:
    if registry is None or not registry.password:
        return registry
    return replace(registry, password=change(registry.password, registry.address))


def _lines(lines: Tuple[str, ...], change: Change) -> Tuple[str, ...]:
    return tuple(_line(one, change) for one in lines)


def _line(text: str, change: Change) -> str:
    return _URL.sub(lambda found: _url(found, change), text) if "@" in text and "://" in text else text


def _url(found: "re.Match[str]", change: Change) -> str:
    scheme, user, host = found.groups()
    if "ssh" in scheme and ":" not in user:
        return found.group(0)  # git@github.com is nobody's secret.
    return f"{scheme}{change(user, host)}@{host}"

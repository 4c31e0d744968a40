"""ContainerRegistry and DockerBuildContext: where an environment's image comes from."""

import io
import os
import tarfile
import tempfile
from typing import Any, Iterator, Optional

from runyard.client.transfer import FileBody
from runyard.errors import UserErrorException
from runyard.files.hashing import sha256_of
from runyard.protocol.environments import RegistrySpec

#: A larger folder is no build context but data, bytes.
MAX_CONTEXT_BYTES = 1 << 30


class ContainerRegistry:
    """A private registry; its password is kept encrypted and never shown."""

    def __init__(self) -> None:
        self.address: Optional[str] = None
        self.username: Optional[str] = None
        self.password: Optional[str] = None
        self.registry_identity: Any = None

    @classmethod
    def _of(cls, spec: Optional[RegistrySpec]) -> "ContainerRegistry":
        found = cls()
        if spec is not None:
            found.address, found.username = spec.address or None, spec.username or None
            found.password = spec.password or None
        return found

    def _spec(self) -> Optional[RegistrySpec]:
        if self.registry_identity is not None:
            raise UserErrorException("registry_identity is Azure's; give username and password of the registry.")
        if not self.address:
            return None
        return RegistrySpec(str(self.address), str(self.username or ""), str(self.password or ""))

    def __repr__(self) -> str:
        return f"ContainerRegistry(address={self.address!r}, username={self.username!r})"


class DockerBuildContext:
    """A folder with a Dockerfile, as the workspace keeps it."""

    def __init__(self, location_type: str, location: str, dockerfile_path: str = "Dockerfile") -> None:
        if location_type != "stored" or not location.startswith("runyard://"):
            raise UserErrorException(
                f"A build context at {location!r} cannot be fetched; copy it here and use from_local_directory()."
            )
        self.location = location
        self.dockerfile_path = dockerfile_path

    @staticmethod
    def from_local_directory(workspace: Any, path: str, dockerfile_path: str = "Dockerfile") -> "DockerBuildContext":
        """Send a folder of this machine to the workspace; equal folders are one."""
        folder = os.fspath(path)
        if not os.path.isfile(os.path.join(folder, dockerfile_path)):
            raise UserErrorException(f"The folder {folder!r} holds no {dockerfile_path!r}.")
        with tempfile.TemporaryDirectory(prefix="runyard-context-") as scratch:
            archive = os.path.join(scratch, "context.tar.gz")
            _pack(folder, archive)
            return DockerBuildContext("stored", send_file(workspace, archive, True), dockerfile_path)

    def __repr__(self) -> str:
        return f"DockerBuildContext({self.location!r}, dockerfile_path={self.dockerfile_path!r})"


def send_file(workspace: Any, path: str, exist_ok: bool) -> str:
    """Have the workspace keep a file for its environments; the name by which they find it."""
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise UserErrorException(f"The file {path!r} cannot be read: {error.strerror}.") from None
    from runyard.environments.stored_files import name_of

    names = {"sha256": digest, "name": os.path.basename(path)}
    query = {"exist_ok": "1" if exist_ok else None}
    return name_of(workspace._call("write_environment_file", FileBody(path), query, **names))


def _pack(folder: str, archive: str) -> None:
    """The folder's plain files, sorted and without times or owners: equal contents give equal bytes."""
    import gzip

    left_bytes = MAX_CONTEXT_BYTES
    with open(archive, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, tarfile.open(
        fileobj=packed, mode="w"
    ) as members:
        for path in _plain_files(folder):
            with open(path, "rb") as stream:
                data = stream.read(left_bytes + 1)
            left_bytes -= len(data)
            if left_bytes < 0:
                raise UserErrorException(f"The folder {folder!r} holds more than {MAX_CONTEXT_BYTES} bytes.")
            member = tarfile.TarInfo(os.path.relpath(path, folder))
            member.size = len(data)
            member.mode = 0o755 if os.access(path, os.X_OK) else 0o644
            members.addfile(member, io.BytesIO(data))


def _plain_files(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            if os.path.islink(path) or not os.path.isfile(path):
                raise UserErrorException(f"The build context holds {path!r}, which is no plain file.")
            yield path

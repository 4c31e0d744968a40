"""What a mounted input holds, told to the process that serves it."""

from typing import Optional, Tuple

from runyard.protocol.mounts import DataFile
from runyard.protocol.record import record


@record
class MountedFile:
    """A file below the mount: one of a datastore, or a link to where it is on this disk."""

    relative: str
    datastore: str = ""
    path: str = ""
    size_bytes: int = 0
    tag: str = ""
    link: Optional[str] = None

    @classmethod
    def of(cls, file: DataFile, is_here: bool) -> "MountedFile":
        """A dataset's file: a link where ``is_here``, so that its origin is a path of this disk, without links."""
        if is_here:
            return cls(file.relative, link=file.origin)
        return cls(file.relative, file.source.datastore or "", file.origin, file.size_bytes or 0, file.tag)


@record
class MountedInput:
    """All of them."""

    files: Tuple[MountedFile, ...]
    workspace: str

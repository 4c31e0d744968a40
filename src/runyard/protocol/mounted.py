"""What a mounted input holds, told to the process that serves it."""

from typing import Optional, Tuple

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


@record
class MountedInput:
    """All of them."""

    files: Tuple[MountedFile, ...]
    workspace: str

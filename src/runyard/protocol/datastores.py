"""A datastore, and the files in it."""

from runyard.protocol.record import record

DEFAULT_DATASTORE = "workspaceblobstore"


@record
class Datastore:
    """A place for files, registered in a workspace."""

    name: str
    workspace: str
    kind: str
    is_default: bool
    created_by: str
    created_at: int


@record
class DatastoreFile:
    """A file in a datastore."""

    path: str
    size_bytes: int
    modified_at: int

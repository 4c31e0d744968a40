"""Datastores and the files in them."""

from pathlib import Path
from typing import List

from runyard.db import datastores
from runyard.files.datastores import FolderDatastore
from runyard.protocol.datastores import Datastore, DatastoreFile
from runyard.server.call import Call, Content, Upload


def list_datastores(call: Call) -> List[Datastore]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return datastores.list_datastores(connection, call.workspace)


def get_datastore(call: Call) -> Datastore:
    """The datastore."""
    with call.parts.database.read() as connection:
        return datastores.get_datastore(connection, call.workspace, call.path["name"])


def list_datastore_files(call: Call) -> List[DatastoreFile]:
    """Files at a path, below a folder, or that match a glob."""
    return _folder(call).list(call.query.get("path", ""))


def read_datastore_file(call: Call) -> Content:
    """One file."""
    file = _folder(call).open(call.path["path"])
    return Content(file=file, size_bytes=Path(file.name).stat().st_size)


def write_datastore_file(call: Call) -> DatastoreFile:
    """Store one file, all of it or nothing."""
    body: Upload = call.body
    with open(body.path, "rb") as source:
        return _folder(call).write(call.path["path"], source, call.query.get("overwrite") == "1")


def _folder(call: Call) -> FolderDatastore:
    store = get_datastore(call)
    return FolderDatastore(call.parts.datastores_folder / call.workspace / store.name)

"""Datastores and the files in them."""

import os
from pathlib import Path
from typing import List, Union

from sqlalchemy import Connection

from runyard.db import datastores
from runyard.errors import PermissionDeniedError, UserErrorException
from runyard.files.datastores import FolderDatastore
from runyard.protocol.datastores import Datastore, DatastoreFile, DatastoreKind, DatastoreSpec
from runyard.server import names
from runyard.server.call import Call, Content, Upload
from runyard.storage.remote import RemoteDatastore
from runyard.storage.services import check_spec


def list_datastores(call: Call) -> List[Datastore]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return datastores.list_datastores(connection, call.workspace)


def get_datastore(call: Call) -> Datastore:
    """The datastore."""
    with call.parts.database.read() as connection:
        return datastores.get_datastore(connection, call.workspace, call.path["name"])


def register_datastore(call: Call) -> Datastore:
    """A bucket, a container or a folder of this machine; looked at before it is kept, unless the spec says not to."""
    spec: DatastoreSpec = call.body
    names.check_asset_name(spec.name)
    if spec.kind == DatastoreKind.FOLDER:
        _check_folder(call, spec)
    else:
        check_spec(spec, call.parts.settings.allow_private_urls)
        _check_root(spec)
    secret = call.parts.vault.lock(spec.credentials)
    shown = Datastore(
        spec.name, call.workspace, spec.kind, False, call.user, call.now, spec.root, spec.account, spec.endpoint
    )
    if shown.is_remote and not spec.skip_validation:
        RemoteDatastore(shown, dict(spec.credentials)).check()

    def save(connection: Connection) -> Datastore:
        return datastores.save_datastore(connection, spec, secret, call.workspace, call.user, call.now)

    return call.parts.database.write(save)


def unregister_datastore(call: Call) -> None:
    """Take it off the list; its files stay where they are."""
    call.parts.database.write(
        lambda connection: datastores.remove_datastore(connection, call.workspace, call.path["name"])
    )


def set_default_datastore(call: Call) -> Datastore:
    """Use it where none is named."""
    return call.parts.database.write(
        lambda connection: datastores.set_default_datastore(connection, call.workspace, call.path["name"])
    )


def list_datastore_files(call: Call) -> List[DatastoreFile]:
    """Files at a path, below a folder, or that match a glob."""
    return _files(call).list(call.query.get("path", ""))


def read_datastore_file(call: Call) -> Content:
    """One file."""
    store = _files(call)
    if isinstance(store, RemoteDatastore):
        remote, size = store.open(call.path["path"])
        return Content(file=remote, size_bytes=size)
    file = store.open(call.path["path"])
    return Content(file=file, size_bytes=Path(file.name).stat().st_size)


def write_datastore_file(call: Call) -> DatastoreFile:
    """Store one file, all of it or nothing."""
    body: Upload = call.body
    with open(body.path, "rb") as source:
        return _files(call).write(call.path["path"], source, call.query.get("overwrite") == "1")


def _files(call: Call) -> Union[FolderDatastore, RemoteDatastore]:
    with call.parts.database.read() as connection:
        store = datastores.get_datastore(connection, call.workspace, call.path["name"])
        secret = datastores.get_secret(connection, call.workspace, store.name) if store.is_remote else ""
    if store.is_remote:
        return RemoteDatastore(store, call.parts.vault.unlock(secret))
    return FolderDatastore(Path(store.root or call.parts.datastores_folder / call.workspace / store.name))


def _check_folder(call: Call, spec: DatastoreSpec) -> None:
    """Whoever may name a folder of this machine may read all that the server's user may: its owner alone."""
    if call.principal is None or call.principal.workspace is not None or call.principal.role != "owner":
        raise PermissionDeniedError("Only the server's owner registers a folder of its machine.")
    root, home = os.path.realpath(spec.root), os.path.realpath(str(call.parts.settings.home))
    if not os.path.isabs(spec.root) or not os.path.isdir(root):
        raise UserErrorException(f"{spec.root[:200]!r} is no folder of the server's machine, by its absolute path.")
    if os.path.commonpath([root, home]) in (root, home):
        raise UserErrorException(f"{spec.root!r} holds the server's own home folder, or lies in it.")


def _check_root(spec: DatastoreSpec) -> None:
    parts = spec.root.strip("/").split("/")
    if not parts[0] or any(part in ("", ".", "..") for part in parts) or len(spec.root) > 1024 or "\0" in spec.root:
        raise UserErrorException(f"{spec.root[:200]!r} is no bucket or container, with a folder after a slash.")

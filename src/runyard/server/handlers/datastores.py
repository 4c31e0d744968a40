"""Datastores and the files in them."""

import os
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Callable, Dict, List, Tuple, TypeVar

from sqlalchemy import Connection

from runyard.db import datastores
from runyard.errors import ConflictError, PermissionDeniedError, UserErrorException
from runyard.files.datastores import FolderDatastore
from runyard.protocol.datastores import (
    LEFT_OUT_SHOWN,
    Datastore,
    DatastoreFile,
    DatastoreKind,
    DatastoreSpec,
    Listing,
)
from runyard.server import names
from runyard.server.call import Call, Content, Upload
from runyard.server.storage_work import in_storage_thread, pieces_of
from runyard.server.threads import in_thread
from runyard.storage.base import DatastoreFiles, RemoteFiles
from runyard.storage.datastores import open_datastore
from runyard.storage.services import check_endpoint, check_spec
from runyard.storage.vault import Vault

#: Services whose connections are kept.
KEPT_MAX = 64

T = TypeVar("T")


def list_datastores(call: Call) -> List[Datastore]:
    """All of the workspace."""
    with call.parts.database.read() as connection:
        return datastores.list_datastores(connection, call.workspace)


def get_datastore(call: Call) -> Datastore:
    """The datastore."""
    with call.parts.database.read() as connection:
        return datastores.get_datastore(connection, call.workspace, call.path["name"])


async def register_datastore(call: Call) -> Datastore:
    """A bucket, a container or a folder of this machine; looked at before it is kept, unless the spec says not to."""
    spec: DatastoreSpec = call.body
    names.check_asset_name(spec.name)
    if spec.kind == DatastoreKind.FOLDER:
        _check_folder(call, spec)
    else:
        await in_thread(check_spec, spec, call.parts.settings.allow_private_urls)
        _check_root(spec)
    shown = Datastore(
        spec.name, call.workspace, spec.kind, False, call.user, call.now, spec.root, spec.account, spec.endpoint
    )
    if shown.is_remote and (spec.create_if_not_exists or not spec.skip_validation):
        await in_storage_thread(_key(shown), _look_at, call, shown, spec)
    return await in_thread(_save, call, spec)


def _look_at(call: Call, store: Datastore, spec: DatastoreSpec) -> None:
    files = open_datastore(store, dict(spec.credentials), call.parts.settings.allow_private_urls)
    if spec.create_if_not_exists:
        files.make_root()
    if not spec.skip_validation:
        files.check()


def _save(call: Call, spec: DatastoreSpec) -> Datastore:
    secret = call.parts.vault.lock(spec.credentials)

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


async def list_datastore_files(call: Call) -> Listing:
    """Files at a path, below a folder, or that match a glob."""
    path = call.query.get("path", "")
    found = await in_thread(find_store, call, call.path["name"])
    return await with_files(call, *found, lambda files: _list(files, path))


async def read_datastore_file(call: Call) -> Content:
    """One file, or ``length`` bytes from ``offset``; ConflictError where it is not of that ``tag`` any more."""
    store, secret = await in_thread(find_store, call, call.path["name"])
    offset, tag = call.integer("offset", 0), call.query.get("tag", "")
    file, rest = await with_files(call, store, secret, lambda files: _open(files, call.path["path"], offset, tag))
    size = min(rest, call.integer("length", rest))
    if store.is_remote:
        return Content(pieces=pieces_of(_key(store), file, size), size_bytes=size)
    return Content(file=file, size_bytes=size)


async def write_datastore_file(call: Call) -> DatastoreFile:
    """Store one file, all of it or nothing."""
    store, secret = await in_thread(find_store, call, call.path["name"])
    return await write_file(call, store, secret, call.path["path"], call.query.get("overwrite") == "1")


async def write_file(call: Call, store: Datastore, secret: str, path: str, overwrite: bool) -> DatastoreFile:
    """Store the request's body under that path, all of it or nothing."""
    body: Upload = call.body

    def write(files: DatastoreFiles) -> DatastoreFile:
        with open(body.path, "rb") as source:
            return files.write(path, source, overwrite)

    return await with_files(call, store, secret, write)


async def with_files(call: Call, store: Datastore, secret: str, do: Callable[[DatastoreFiles], T]) -> T:
    """Do something with the datastore's files: where a service holds them, beside all other requests."""
    if not store.is_remote:
        root = Path(store.root or call.parts.datastores_folder / call.workspace / store.name)
        return await in_thread(lambda: do(FolderDatastore(root, is_own=not store.root)))
    allow_private = call.parts.settings.allow_private_urls
    await in_thread(check_endpoint, store.endpoint, allow_private)
    return await in_storage_thread(_key(store), lambda: do(_remote(call.parts.vault, store, secret, allow_private)))


@lru_cache(maxsize=KEPT_MAX)
def _remote(vault: Vault, store: Datastore, secret: str, allow_private: bool) -> RemoteFiles:
    """Its connections are kept: to make them anew costs more than to read a small file."""
    return open_datastore(store, vault.unlock(secret), allow_private)


def _list(files: DatastoreFiles, path: str) -> Listing:
    notices: Dict[str, None] = {}
    listed = files.list(path, notices)
    return Listing(tuple(listed), len(notices), tuple(notices)[:LEFT_OUT_SHOWN])


def _open(files: DatastoreFiles, path: str, offset: int, tag: str) -> Tuple[BinaryIO, int]:
    """The file from ``offset`` on, and how many bytes those are."""
    file, found = files.open(path)
    if tag and found.tag and tag != found.tag:
        file.close()
        raise ConflictError(f"{path!r} has changed since it was listed; start again.")
    file.seek(min(offset, found.size_bytes))
    return file, max(0, found.size_bytes - offset)


def find_store(call: Call, name: str) -> Tuple[Datastore, str]:
    """The datastore, and its credentials as the vault locked them."""
    with call.parts.database.read() as connection:
        store = datastores.get_datastore(connection, call.workspace, name)
        return store, datastores.get_secret(connection, call.workspace, store.name) if store.is_remote else ""


def _key(store: Datastore) -> str:
    return f"{store.workspace}/{store.name}"


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
    if spec.kind == DatastoreKind.WEB and not spec.root:
        return
    parts = spec.root.strip("/").split("/")
    if not parts[0] or any(part in ("", ".", "..") for part in parts) or len(spec.root) > 1024 or "\0" in spec.root:
        raise UserErrorException(f"{spec.root[:200]!r} is no bucket or container, with a folder after a slash.")

"""Which class opens a datastore of which kind."""

from typing import Dict, Type

from runyard.protocol.datastores import Datastore, DatastoreKind
from runyard.storage.azure_files import AzureFilesDatastore
from runyard.storage.base import RemoteFiles
from runyard.storage.remote import RemoteDatastore
from runyard.storage.web import WebDatastore

#: Those that are let in by credentials; what a service needs to be spoken to stands in ``services.SERVICES``.
_KINDS: Dict[str, Type[RemoteDatastore]] = {
    DatastoreKind.S3: RemoteDatastore,
    DatastoreKind.AZURE_BLOB: RemoteDatastore,
    DatastoreKind.AZURE_FILE: AzureFilesDatastore,
    DatastoreKind.ADLS_GEN2: RemoteDatastore,
    DatastoreKind.GCS: RemoteDatastore,
}


def open_datastore(store: Datastore, credentials: Dict[str, str], allow_private: bool) -> RemoteFiles:
    """The files of a datastore that is not a folder; UserErrorException where a library is missing for its kind.

    ``allow_private``: may a web site lead to addresses that are not public? Those of services are judged before.
    """
    if store.kind == DatastoreKind.WEB:
        return WebDatastore(store, allow_private)
    return _KINDS[store.kind](store, credentials)

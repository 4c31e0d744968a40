"""A datastore, and the files in it."""

from dataclasses import field
from typing import Dict, Iterable, Tuple

from runyard.protocol.record import record
from runyard.protocol.words import counted, is_or_are

DEFAULT_DATASTORE = "workspaceblobstore"
#: What a workspace comes with besides: v1's names of its file shares. They are folders of ours as the default one is.
FILE_DATASTORES = ("workspacefilestore", "workspaceworkingdirectory")


class DatastoreKind:
    """What holds a datastore's files."""

    #: A folder of the server's machine: its own, or one that its owner registered.
    FOLDER = "folder"
    S3 = "s3"
    AZURE_BLOB = "azure_blob"
    AZURE_FILE = "azure_file"
    ADLS_GEN2 = "adls_gen2"
    GCS = "gcs"
    #: A web site, whose files are read one by one: it lists none.
    WEB = "web"


@record
class DatastoreSpec:
    """A datastore as asked."""

    name: str
    kind: str
    #: The bucket or container, with a folder in it after a slash; a folder's absolute path.
    root: str
    #: Azure's storage account.
    account: str = ""
    #: The service's address, where it is not the cloud's own.
    endpoint: str = ""
    #: What lets us in ("account_key", "sas_token", "key", "secret", ...): kept encrypted, never given back.
    credentials: Dict[str, str] = field(default_factory=dict)
    #: Replace one of that name.
    overwrite: bool = False
    #: Do not look whether it can be reached.
    skip_validation: bool = False
    #: Make a share that is not there.
    create_if_not_exists: bool = False


@record
class Datastore:
    """A place for files, registered in a workspace."""

    name: str
    workspace: str
    kind: str
    is_default: bool
    created_by: str
    created_at: int
    #: As in the spec; empty: the server's own folder for it.
    root: str = ""
    account: str = ""
    endpoint: str = ""

    @property
    def is_remote(self) -> bool:
        """Are its files reached through the server?"""
        return self.kind != DatastoreKind.FOLDER

    @property
    def is_file_share(self) -> bool:
        """Is it one of Azure's file shares, or what stands for one?"""
        came_as_one = not self.is_remote and not self.root and self.name in FILE_DATASTORES
        return self.kind == DatastoreKind.AZURE_FILE or came_as_one


@record
class DatastoreFile:
    """A file in a datastore."""

    path: str
    size_bytes: int
    #: Microseconds since 1970; 0 where that is not known.
    modified_at: int
    #: Another one where the content is another; '' where that is not known.
    tag: str = ""


@record
class Listing:
    """The files at a path of a datastore, and which of those that are there it leaves out."""

    files: Tuple[DatastoreFile, ...]
    left_out_count: int = 0
    #: Why, a sentence each, for the first LEFT_OUT_SHOWN of them.
    left_out: Tuple[str, ...] = ()


#: How many of the files that are left out are named.
LEFT_OUT_SHOWN = 10


def left_out_sentence(datastore: str, count: int, reasons: Iterable[str]) -> str:
    """One sentence on what is left out of a datastore's files; '' for nothing."""
    shown = list(reasons)[:LEFT_OUT_SHOWN]
    if not shown:
        return ""
    more = f" ... ({count - len(shown)} more)" if count > len(shown) else ""
    return f"{counted(count, 'file')} of datastore {datastore!r} {is_or_are(count)} left out: {' '.join(shown)}{more}"

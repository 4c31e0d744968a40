"""Which artifact store a home has: one address, kept in ``store.json`` with its sealed credentials, for every start."""

import importlib
import json
import re
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from runyard.errors import UserErrorException
from runyard.files.layout import write_atomically
from runyard.protocol.record import record
from runyard.storage.base import ArtifactStore
from runyard.storage.local import LocalStore
from runyard.storage.objects import ObjectService
from runyard.storage.vault import Vault

#: Variables of the storage services' own tools begin so.
SERVICE_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "RUNYARD_STORE_ENDPOINT")
#: The address for contents on the home's own disk.
LOCAL = "local"
#: A home's file that says where its contents lie.
FILE = "store.json"

_ADDRESS = re.compile(r"(s3|az|gs)://([A-Za-z0-9][A-Za-z0-9._-]{1,254})(/[^?#\s]*)?")
#: Which variables each service's tools read, by what we call it.
_VARIABLES: Dict[str, Dict[str, Tuple[str, ...]]] = {
    "s3": {
        "key": ("AWS_ACCESS_KEY_ID",),
        "secret": ("AWS_SECRET_ACCESS_KEY",),
        "token": ("AWS_SESSION_TOKEN",),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "endpoint": ("RUNYARD_STORE_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    },
    "az": {
        "account": ("AZURE_STORAGE_ACCOUNT",),
        "key": ("AZURE_STORAGE_KEY",),
        "sas": ("AZURE_STORAGE_SAS_TOKEN",),
        "endpoint": ("RUNYARD_STORE_ENDPOINT",),
    },
    "gs": {"key": (), "endpoint": ("RUNYARD_STORE_ENDPOINT", "STORAGE_EMULATOR_HOST")},
}
#: Of these, those that count are all from one place.
_CREDENTIALS = ("key", "secret", "token", "sas")
#: The module and class that speak to each service.
_SERVICES = {
    "s3": ("s3", "S3Objects"), "az": ("azure_blob", "AzureObjects"), "gs": ("gcs", "GoogleObjects"),
}  # fmt: skip
#: What ``pip install 'runyard[...]'`` brings each service's library.
_EXTRAS = {"s3": "s3", "az": "azure", "gs": "gcs"}


@record
class Choice:
    """A store in a bucket or container."""

    kind: str
    bucket: str
    #: '' or ends in '/'.
    prefix: str
    #: key, secret, token, region, account, sas, endpoint: as far as they are known.
    known: Dict[str, str]

    @property
    def place(self) -> str:
        """Its address, without a credential."""
        return f"{self.kind}://{self.bucket}/{self.prefix}".rstrip("/")


def open_store(home: Path, asked: str, variables: Mapping[str, str], vault: Vault) -> ArtifactStore:
    """The home's store, ready: where ``asked`` says, else where it was before, else on the home's disk.

    UserErrorException for an address that is none, and for another one than the home's contents lie at; StoreRefused
    where the service will not have us. One that does not answer is waited for while the server runs.
    """
    choice = _choose(home, asked, variables, vault)
    if choice is None:
        return LocalStore(home / "store")
    # Loaded only here: most homes have their contents on their own disk, and start in less time without it.
    from runyard.storage.artifacts import RemoteStore

    folder = home / "store"
    older = LocalStore(folder) if folder.is_dir() else None
    store = RemoteStore(choice.place, _open(choice), home / "catalog", older)
    has_answered = store.start()
    if has_answered or not (home / FILE).exists():
        _keep(home, choice, vault)
    return store


def parse_address(text: str, variables: Mapping[str, str]) -> Choice:
    """A store's address with what the variables tell of it; UserErrorException for what is no address."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise UserErrorException(
            f"{_shown(text)!r} is no artifact store: it is s3://bucket/prefix, az://container/prefix, "
            f"gs://bucket/prefix or {LOCAL}."
        )
    kind, bucket, prefix = found.group(1), found.group(2), (found.group(3) or "").strip("/")
    known = {}
    for name, candidates in _VARIABLES[kind].items():
        value = next((variables[one].strip() for one in candidates if variables.get(one, "").strip()), "")
        if value:
            known[name] = value
    if kind == "az":
        known = {**_connection_string(variables.get("AZURE_STORAGE_CONNECTION_STRING", "")), **known}
    if kind == "gs" and "GOOGLE_APPLICATION_CREDENTIALS" in variables:
        known["key"] = _read_key(variables["GOOGLE_APPLICATION_CREDENTIALS"])
    return Choice(kind, bucket, f"{prefix}/" if prefix else "", known)


def _choose(home: Path, asked: str, variables: Mapping[str, str], vault: Vault) -> Optional[Choice]:
    path = home / FILE
    kept: Optional[Dict[str, str]] = json.loads(path.read_text()) if path.exists() else None
    if (not asked and kept is None) or (asked == LOCAL and kept is None):
        return None
    if kept is None:
        return _check(parse_address(asked, variables))
    if asked and asked.rstrip("/") != kept["place"]:
        raise UserErrorException(
            f"This home keeps its contents in {kept['place']}, not in {_shown(asked)}. To move them, copy all objects "
            f"there while no server runs, remove {path}, and start again with the new address."
        )
    choice = parse_address(kept["place"], variables)
    before = vault.unlock(kept["sealed"])
    if not choice.known.keys().isdisjoint(_CREDENTIALS):
        # A key of today does not go with a token of yesterday.
        before = {name: text for name, text in before.items() if name not in _CREDENTIALS}
    return _check(Choice(choice.kind, choice.bucket, choice.prefix, {**before, **choice.known}))


def _check(choice: Choice) -> Choice:
    known = choice.known
    if choice.kind == "az" and "account" not in known:
        raise UserErrorException(
            f"{choice.place} needs an account: set AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or "
            "AZURE_STORAGE_SAS_TOKEN, or AZURE_STORAGE_CONNECTION_STRING."
        )
    if choice.kind == "s3" and ("key" in known) != ("secret" in known):
        raise UserErrorException(f"{choice.place} takes AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY together.")
    endpoint = known.get("endpoint", "")
    if endpoint and (urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname):
        raise UserErrorException(f"The endpoint {_shown(endpoint)!r} is no address such as https://host:9000.")
    return choice


def _open(choice: Choice) -> ObjectService:
    endpoint = choice.known.get("endpoint", "").rstrip("/")
    module, name = _SERVICES[choice.kind]
    try:
        kind = getattr(importlib.import_module(f"runyard.storage.{module}"), name)
        service: ObjectService = kind(choice.place, choice.bucket, choice.prefix, endpoint, choice.known)
    except ImportError:
        raise UserErrorException(
            f"The artifact store {choice.place} needs an extra on the server's machine: "
            f"pip install 'runyard[{_EXTRAS[choice.kind]}]'."
        ) from None
    return service


def _keep(home: Path, choice: Choice, vault: Vault) -> None:
    """For the next start, which may have no variables: a client starts its home's server by itself."""
    data = {"place": choice.place, "sealed": vault.lock(choice.known)}
    write_atomically(home / FILE, json.dumps(data).encode(), mode=0o600)


def _connection_string(text: str) -> Dict[str, str]:
    pairs = dict(one.partition("=")[::2] for one in text.split(";") if "=" in one)
    names = {"AccountName": "account", "AccountKey": "key", "SharedAccessSignature": "sas", "BlobEndpoint": "endpoint"}
    return {ours: pairs[theirs] for theirs, ours in names.items() if pairs.get(theirs)}


def _read_key(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise UserErrorException(
            f"GOOGLE_APPLICATION_CREDENTIALS names {path!r}, which cannot be read: {error.strerror}."
        ) from None


def _shown(text: str) -> str:
    """An address without a password in it."""
    return re.sub(r"//[^/@]*@", "//***@", text)[:200]

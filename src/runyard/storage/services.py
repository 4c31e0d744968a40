"""What fsspec needs to know of each kind of storage service, and which credentials each takes."""

import json
from typing import Any, Dict, Tuple
from urllib.parse import urlsplit

from runyard.errors import UserErrorException
from runyard.files.fetch import is_private, resolve
from runyard.protocol.datastores import DatastoreKind, DatastoreSpec
from runyard.protocol.record import record

#: Longest wait for a connection and for a reply, seconds; how often a request is tried.
CONNECT_S, READ_S, TRIES = 10, 60, 3


@record
class Service:
    """One kind of storage service."""

    #: fsspec's name of it, and what has to be installed for it.
    protocol: str
    extra: str
    credentials: Tuple[str, ...]


SERVICES = {
    DatastoreKind.S3: Service("s3", "s3", ("key", "secret", "token")),
    DatastoreKind.AZURE_BLOB: Service(
        "abfs", "azure", ("account_key", "sas_token", "tenant_id", "client_id", "client_secret")
    ),
    DatastoreKind.ADLS_GEN2: Service(
        "abfs", "azure", ("account_key", "sas_token", "tenant_id", "client_id", "client_secret")
    ),
    DatastoreKind.GCS: Service("gcs", "gcs", ("token",)),
}


def check_spec(spec: DatastoreSpec, allow_private: bool) -> None:
    """UserErrorException for a kind, credential or address that cannot be."""
    service = SERVICES.get(spec.kind)
    if service is None:
        raise UserErrorException(f"{spec.kind!r} is no kind of datastore; there are {', '.join(SERVICES)} and folder.")
    unknown = sorted(set(spec.credentials) - set(service.credentials))
    if unknown:
        known = ", ".join(service.credentials)
        raise UserErrorException(f"A datastore of the kind {spec.kind!r} takes {known}, not {unknown[0]!r}.")
    if spec.kind in (DatastoreKind.AZURE_BLOB, DatastoreKind.ADLS_GEN2) and not spec.account:
        raise UserErrorException("An Azure datastore needs account_name.")
    if spec.kind == DatastoreKind.GCS and "token" in spec.credentials:
        _check_token(spec.credentials["token"])
    if spec.endpoint:
        _check_endpoint(spec.endpoint, allow_private)


def _check_token(text: str) -> None:
    """Google's library would take a path too, and read that file of the server's machine."""
    try:
        is_key = isinstance(json.loads(text), dict)
    except ValueError:
        is_key = False
    if not is_key:
        raise UserErrorException("Google's token is the text of a service account's JSON key.")


def _check_endpoint(endpoint: str, allow_private: bool) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UserErrorException(f"The endpoint {endpoint[:200]!r} is no address such as https://host:9000.")
    if allow_private:
        return
    port = parts.port or (443 if parts.scheme == "https" else 80)
    private = [address for address in resolve(parts.hostname, port) if is_private(address)]
    if private:
        raise UserErrorException(
            f"The endpoint {endpoint!r} lies at the private address {private[0]}; "
            "the server allows that with RUNYARD_ALLOW_PRIVATE_URLS=1."
        )


def options(kind: str, account: str, endpoint: str, credentials: Dict[str, str]) -> Dict[str, Any]:
    """fsspec's options for that service; nothing is kept between two looks, and nobody's own profile is read."""
    found: Dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if kind == DatastoreKind.S3:
        found.update(credentials, anon=not credentials)
        found["config_kwargs"] = {
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
            "retries": {"max_attempts": TRIES},
        }
        if endpoint:
            found["endpoint_url"] = endpoint
    elif kind in (DatastoreKind.AZURE_BLOB, DatastoreKind.ADLS_GEN2):
        found.update(_azure(account, endpoint, credentials))
    elif kind == DatastoreKind.GCS:
        found["token"] = json.loads(credentials["token"]) if "token" in credentials else "anon"
        if endpoint:
            found["endpoint_url"] = endpoint
    return found


def _azure(account: str, endpoint: str, credentials: Dict[str, str]) -> Dict[str, Any]:
    found: Dict[str, Any] = {
        "account_name": account,
        "connection_timeout": CONNECT_S,
        "read_timeout": READ_S,
        **credentials,
    }
    if not credentials:
        found["anon"] = True
    if not endpoint:
        return found
    parts = [
        f"DefaultEndpointsProtocol={urlsplit(endpoint).scheme}",
        f"AccountName={account}",
        f"BlobEndpoint={endpoint}",
    ]
    if "account_key" in credentials:
        parts.append("AccountKey=" + credentials["account_key"])
    if "sas_token" in credentials:
        parts.append("SharedAccessSignature=" + credentials["sas_token"].lstrip("?"))
    return {**found, "connection_string": ";".join(parts)}

"""What fsspec needs to know of each kind of storage service, and which credentials each takes."""

import json
import re
from typing import Any, Callable, Dict, Tuple
from urllib.parse import urlsplit

from runyard.errors import UserErrorException
from runyard.files.fetch import is_private, resolve
from runyard.protocol.datastores import DatastoreKind, DatastoreSpec
from runyard.protocol.record import record

#: Longest wait for a connection and for a reply, seconds; how often a request is tried.
CONNECT_S, READ_S, TRIES = 10, 60, 3

_ACCOUNT = re.compile(r"^[a-z0-9]{3,24}$")


@record
class Service:
    """One kind of storage service."""

    #: fsspec's name of it (empty: not by fsspec), and what has to be installed for it.
    protocol: str
    extra: str
    credentials: Tuple[str, ...]


SERVICES = {
    DatastoreKind.S3: Service("s3", "s3", ("key", "secret", "token")),
    DatastoreKind.AZURE_BLOB: Service(
        "abfs", "azure", ("account_key", "sas_token", "tenant_id", "client_id", "client_secret")
    ),
    DatastoreKind.AZURE_FILE: Service("", "azure", ("account_key", "sas_token")),
    DatastoreKind.ADLS_GEN2: Service(
        "abfs", "azure", ("account_key", "sas_token", "tenant_id", "client_id", "client_secret")
    ),
    DatastoreKind.GCS: Service("gcs", "gcs", ("token",)),
    DatastoreKind.WEB: Service("", "", ()),
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
    for name, text in spec.credentials.items():
        # What is joined into one text must not hold what parts it.
        if not text or re.search(r"[\s;\x00-\x1f]", text if spec.kind != DatastoreKind.GCS else "x"):
            raise UserErrorException(f"The credential {name!r} is empty, or has a blank or a ';' in it.")
    for check in _CHECKS[spec.kind]:
        check(spec)
    check_endpoint(spec.endpoint, allow_private)


def _check_account(spec: DatastoreSpec) -> None:
    if not _ACCOUNT.match(spec.account):
        raise UserErrorException("An Azure datastore needs account_name: 3 to 24 small letters and digits.")


def _check_one_credential(spec: DatastoreSpec) -> None:
    if len(spec.credentials) != 1:
        raise UserErrorException("A file share lets nobody in without an account_key or a sas_token, one of the two.")


def _check_address(spec: DatastoreSpec) -> None:
    if not spec.endpoint:
        raise UserErrorException("A web site needs its address: url='https://host/folder'.")


def _check_pair(spec: DatastoreSpec) -> None:
    if ("key" in spec.credentials) != ("secret" in spec.credentials):
        raise UserErrorException("S3 takes key and secret together.")
    if "token" in spec.credentials and "key" not in spec.credentials:
        raise UserErrorException("S3's token goes with key and secret.")


def _check_token(spec: DatastoreSpec) -> None:
    """Google's library would take a path too, and read that file of the server's machine."""
    if "token" not in spec.credentials:
        return
    try:
        is_key = isinstance(json.loads(spec.credentials["token"]), dict)
    except ValueError:
        is_key = False
    if not is_key:
        raise UserErrorException("Google's token is the text of a service account's JSON key.")


#: What a spec of each kind is asked besides.
_CHECKS: Dict[str, Tuple[Callable[[DatastoreSpec], None], ...]] = {
    DatastoreKind.S3: (_check_pair,),
    DatastoreKind.AZURE_BLOB: (_check_account,),
    DatastoreKind.AZURE_FILE: (_check_account, _check_one_credential),
    DatastoreKind.ADLS_GEN2: (_check_account,),
    DatastoreKind.GCS: (_check_token,),
    DatastoreKind.WEB: (_check_address,),
}


def check_endpoint(endpoint: str, allow_private: bool) -> None:
    """UserErrorException for what is no address, or a private one where that is not allowed; '': the cloud's own."""
    if not endpoint:
        return
    wrong = f"The endpoint {endpoint[:200]!r} is no address such as https://host:9000."
    if re.search(r"[\s;#?\x00-\x1f]", endpoint):
        raise UserErrorException(wrong)
    try:
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise UserErrorException(wrong) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UserErrorException(wrong)
    if allow_private:
        return
    try:
        private = [address for address in resolve(parts.hostname, port) if is_private(address)]
    except OSError:
        raise UserErrorException(f"The endpoint {endpoint!r} has a host that cannot be found.") from None
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

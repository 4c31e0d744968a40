"""One request to a service, from wherever its caller is."""

import urllib.error
import urllib.request
from typing import Any, Tuple

from runyard.errors import WebserviceException

#: How long one request may take, seconds.
TIMEOUT_S = 300.0

#: Status, headers, content.
Answer = Tuple[int, Any, bytes]


def post(uri: str, data: bytes, secret: str) -> Answer:
    """Send a JSON body, with a key or token where there is one; WebserviceException where nobody answers."""
    headers = {"Content-Type": "application/json"}
    if secret:
        headers["Authorization"] = "Bearer " + secret
    try:
        with urllib.request.urlopen(urllib.request.Request(uri, data, headers), timeout=TIMEOUT_S) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()
    except OSError as error:
        raise WebserviceException(f"The service does not answer at {uri}: {error}.") from None

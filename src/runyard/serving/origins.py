"""Pages of which other origins may ask a service from a browser (CORS): those that ``AML_CORS_ORIGINS`` names."""

from typing import Dict, Optional, Set

from runyard.serving.http import Request, Responder

#: How long a browser need not ask again, seconds.
MAX_AGE_S = 600


class Origins:
    """Those that may ask; none where nothing is said."""

    def __init__(self, named: str) -> None:
        self._named: Set[str] = {one.strip().lower().rstrip("/") for one in named.split(",") if one.strip()}

    def __bool__(self) -> bool:
        return bool(self._named)

    def answering(self, request: Request, respond: Responder) -> Responder:
        """As ``respond``, and the browser is told that the page may read the answer; a script's own word counts."""
        allowed = self._headers_for(request.header(b"origin"))

        def told(status: int, body: bytes, content_type: str, headers: Optional[Dict[str, str]]) -> None:
            given = headers or {}
            is_said = any(name.lower() == "access-control-allow-origin" for name in given)
            respond(status, body, content_type, given if is_said else {**given, **allowed})

        return told

    def is_preflight(self, request: Request) -> bool:
        """Does a browser ask whether it may ask? It sends no key with that."""
        is_asked = request.method == "OPTIONS" and request.header(b"access-control-request-method")
        return bool(is_asked and self._allows(request.header(b"origin")))

    def _allows(self, origin: str) -> bool:
        host = origin.lower().partition("://")[2]
        return bool(origin) and ("*" in self._named or origin.lower() in self._named or host in self._named)

    def _headers_for(self, origin: str) -> Dict[str, str]:
        if "*" in self._named:
            return {"Access-Control-Allow-Origin": "*"}
        return {"Vary": "Origin", **({"Access-Control-Allow-Origin": origin} if self._allows(origin) else {})}


def preflight_headers(request: Request) -> Dict[str, str]:
    """What a browser hears that may ask."""
    asked = request.header(b"access-control-request-headers") or "Authorization, Content-Type"
    return {
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": asked,
        "Access-Control-Max-Age": str(MAX_AGE_S),
    }

"""Raw requests of an entry script: ``@rawhttp``, AMLRequest, AMLResponse. Shaped as v1's, which were Flask's."""

import json
from typing import Any, Callable, Dict, List, Optional, TypeVar, Union
from urllib.parse import parse_qs

F = TypeVar("F", bound=Callable[..., Any])


def rawhttp(run: F) -> F:
    """Mark run() as one that takes an AMLRequest instead of the body's text."""
    run.is_raw_http = True  # type: ignore[attr-defined]
    return run


class AMLRequest:
    """One request."""

    def __init__(
        self, method: str = "POST", path: str = "/score", query: str = "", headers: Optional[Dict[str, str]] = None,
        body: bytes = b"",
    ) -> None:  # fmt: skip
        self.method = method
        self.path = path
        self.full_path = f"{path}?{query}"
        self.url = path + ("?" + query if query else "")
        self.query_string = query.encode("utf-8")
        self.headers = Headers(headers or {})
        #: The first value of each; ``args.getlist`` has them all.
        self.args = Arguments(parse_qs(query, keep_blank_values=True))
        self.data = body

    @property
    def content_type(self) -> str:
        """The header of that name."""
        return self.headers.get("content-type") or ""

    @property
    def content_length(self) -> int:
        """Bytes of the body."""
        return len(self.data)

    def get_data(self, as_text: bool = False, **_: Any) -> Union[str, bytes]:
        """The body."""
        return self.data.decode("utf-8") if as_text else self.data

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return self.get_json()

    def get_json(self, force: bool = False, silent: bool = False, **_: Any) -> Any:
        """The body as JSON; None for another content type, unless ``force``."""
        if not force and "json" not in self.content_type:
            return None
        try:
            return json.loads(self.data.decode("utf-8"))
        except ValueError:
            if silent:
                return None
            raise

    @property
    def form(self) -> "Arguments":
        """The fields of a form that was posted."""
        return Arguments(parse_qs(self.data.decode("utf-8", "replace"), keep_blank_values=True))


class Headers(Dict[str, str]):
    """Headers by names in any case."""

    def __init__(self, found: Dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in found.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        """A header, or the default."""
        return super().get(name.lower(), default)


class Arguments(Dict[str, str]):
    """Names and their first values."""

    def __init__(self, found: Dict[str, List[str]]) -> None:
        super().__init__({name: values[0] for name, values in found.items()})
        self._all = found

    def getlist(self, name: str) -> List[str]:
        """All values of a name."""
        return list(self._all.get(name, ()))


class AMLResponse:
    """An answer: a text, bytes, or with ``json_str`` anything that JSON holds."""

    def __init__(
        self, message: Any = b"", status_code: int = 200, json_str: bool = False, run_function_failed: bool = False
    ) -> None:
        self.status_code = int(status_code)
        self.headers: Dict[str, str] = {}
        if json_str:
            self.data = json.dumps(message).encode("utf-8")
            self.headers["Content-Type"] = "application/json"
        else:
            self.data = message.encode("utf-8") if isinstance(message, str) else bytes(message)
            self.headers["Content-Type"] = "text/html; charset=utf-8"
        if run_function_failed:
            self.headers["x-ms-run-function-failed"] = "True"

    @property
    def content_type(self) -> str:
        """The header of that name."""
        return self.headers["Content-Type"]

    @content_type.setter
    def content_type(self, value: str) -> None:
        self.headers["Content-Type"] = value

    mimetype = content_type

    def set_data(self, data: Union[str, bytes]) -> None:
        """Another body."""
        self.data = data.encode("utf-8") if isinstance(data, str) else bytes(data)

    def get_data(self, as_text: bool = False) -> Any:
        """The body."""
        return self.data.decode("utf-8") if as_text else self.data

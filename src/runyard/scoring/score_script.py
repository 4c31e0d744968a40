"""An entry script: init() once, run(data) for each request, as v1's own server called them."""

import importlib.util
import inspect
import json
import os
import sys
import traceback
from typing import Any, Callable, Dict, Optional, Tuple

from runyard.protocol.scoring import SCRIPT, ModelFacts
from runyard.scoring.streams import keep_printing

#: Status, headers and body of an answer.
Answer = Tuple[int, Dict[str, str], bytes]
_JSON = {"Content-Type": "application/json"}


class ScriptModel:
    """The module of an entry script, initialised."""

    def __init__(self, path: str) -> None:
        keep_printing()
        self._module = _load(path)
        run = getattr(self._module, "run", None)
        if not callable(run):
            raise ValueError(f"The entry script {os.path.basename(path)} has no function run(data).")
        self._run: Callable[..., Any] = run
        init = getattr(self._module, "init", None)
        if init is not None:
            init()
        self._schema = _schema_of(self._run)
        self._is_raw = bool(getattr(self._run, "is_raw_http", False))

    def facts(self) -> ModelFacts:
        """A body in, a body out; the schema is what inference_schema's decorators say."""
        schema = "" if self._schema is None else json.dumps(self._schema)
        sample = json.dumps(self._schema["sample"]) if self._schema and "sample" in self._schema else ""
        return ModelFacts(SCRIPT, "Custom", sample=sample, schema=schema)

    def answer(self, request: Dict[str, Any], body: bytes) -> Answer:
        """What run() makes of a request; an error is logged whole and told in one line."""
        try:
            if self._is_raw:
                return _raw(self._run, request, body)
            if request["method"] != "POST":
                status = 204 if request["method"] == "OPTIONS" else 405
                allow = {"Content-Type": "text/plain", "Allow": "POST, OPTIONS"}
                return status, allow, b"This service takes POST only."
            if self._schema is None:
                result = self._run(_text(body))
            else:
                result = self._run(**_arguments(body, self._run))
            return _encoded(result)
        except _BadInput as error:
            return 400, _JSON, json.dumps({"error": str(error)}).encode("utf-8")
        except Exception as error:  # noqa: BLE001 - the script's own
            traceback.print_exc()
            sys.stderr.flush()
            said = f"run() failed: {type(error).__name__}: {error}"
            return (
                500,
                _JSON,
                json.dumps({"error": said, "hint": "The service's log has the traceback."}).encode("utf-8"),
            )


class _BadInput(Exception):
    """The request and not the script is wrong."""


def _load(path: str) -> Any:
    folder = os.path.dirname(os.path.abspath(path))
    for one in (folder, os.getcwd()):
        if one not in sys.path:
            sys.path.insert(0, one)
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _schema_of(run: Callable[..., Any]) -> Optional[Dict[str, Any]]:
    """What the decorators of the package inference-schema say of run(); None where it has none."""
    try:
        from inference_schema.schema_util import get_input_schema, get_output_schema
    except ImportError:
        return None
    taken = get_input_schema(run)
    if not taken:
        return None
    found: Dict[str, Any] = {"input": taken, "output": get_output_schema(run)}
    if "example" in taken:
        found["sample"] = taken["example"]
    return found


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BadInput(f"The body is no UTF-8 text, which run() takes: {error}.") from None


def _arguments(body: bytes, run: Callable[..., Any]) -> Dict[str, Any]:
    try:
        found = json.loads(body.decode("utf-8"))
    except ValueError as error:
        raise _BadInput(f"The body is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise _BadInput("The body is a JSON object with the arguments of run() by name.")
    taken = inspect.signature(inspect.unwrap(run)).parameters.values()
    named = [one for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    missing = [one.name for one in named if one.default is one.empty and one.name not in found]
    is_open = any(one.kind == one.VAR_KEYWORD for one in taken)
    unknown = [] if is_open else sorted(set(found) - {one.name for one in named})
    if missing or unknown:
        said = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
        raise _BadInput(f"run() takes {', '.join(one.name for one in named)}; {said}.")
    return found


def _encoded(result: Any) -> Answer:
    """As v1: whatever run() returns goes out as JSON, a text too."""
    if _is_response(result):
        return _response(result)
    if isinstance(result, bytes):
        return 200, {"Content-Type": "application/octet-stream"}, result
    try:
        return 200, _JSON, json.dumps(result).encode("utf-8")
    except TypeError as error:
        raise TypeError(
            f"run() returned what JSON cannot hold ({error}); return lists and numbers, as by .tolist()"
        ) from None


def _raw(run: Callable[..., Any], request: Dict[str, Any], body: bytes) -> Answer:
    from azureml.contrib.services.aml_request import AMLRequest

    return _encoded(run(AMLRequest(request["method"], request["path"], request["query"], request["headers"], body)))


def _is_response(result: Any) -> bool:
    return all(hasattr(result, name) for name in ("status_code", "headers", "get_data"))


def _response(result: Any) -> Answer:
    headers = {str(name): str(value) for name, value in dict(result.headers).items()}
    return int(result.status_code), headers, result.get_data()

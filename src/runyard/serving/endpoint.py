"""One revision's answers: which address means what, who may ask, and from a request to the model and back."""

import hashlib
import hmac
import json
import random
import re
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from runyard.protocol.scoring import SCRIPT, ModelFacts
from runyard.protocol.services import ORIGINS_VARIABLE, Access, Revision, scoring_path, sign_token
from runyard.serving import origins
from runyard.serving.dialects import mlflow_json, onnx_json, open_inference, rows, swagger, tensorflow_rest
from runyard.serving.dialects.question import BadRequestError, Question
from runyard.serving.dialects.table import table_question
from runyard.serving.dialects.values import dumps, load_object, loads
from runyard.serving.http import JSON, Request, Responder
from runyard.serving.origins import Origins
from runyard.serving.replicas import Job, Pool, ScoringError, rows_of
from runyard.serving.statistics import Statistics

#: What anyone may ask: is it there? Everything else needs a key, where there are keys.
OPEN_PATHS = frozenset(("/", "/ping", "/health", "/v2/health/live", "/v2/health/ready", "/version"))
_TEXT = "text/plain; charset=utf-8"
#: The tables that a scoring address takes.
FORMS = {**rows.FORMS, **tensorflow_rest.FORMS}
#: Headers that this front sets, of whatever a script says.
_OURS = frozenset(("connection", "content-length", "date", "keep-alive", "trailer", "transfer-encoding", "upgrade"))
_TENSORFLOW = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(:predict|:classify|:regress|/metadata)?")
_OPEN_INFERENCE = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(/infer|/ready)?")


#: What an address does, and the methods that it takes.
_Address = Tuple[Callable[[Request, Responder], None], Tuple[str, ...]]
_READ, _ASKED, _ALL = ("GET", "HEAD"), ("POST",), ("GET", "HEAD", "POST")


class Keys:
    """Who may ask."""

    def __init__(self, access: str, keys: Sequence[str], token_key: str) -> None:
        self._access, self._keys, self._token_key = access, [one.encode() for one in keys], token_key

    @property
    def is_open(self) -> bool:
        """May anyone?"""
        return self._access == Access.OPEN

    @property
    def kind(self) -> str:
        """What lets in, in a word."""
        return "token" if self._access == Access.TOKEN else "key"

    def lets_in(self, authorization: str) -> bool:
        """Is there a key or token of ours in that header? Compared in constant time."""
        if self.is_open:
            return True
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            return False
        found = hashlib.sha256(secret.strip().encode()).hexdigest().encode()
        # Each is compared: how long it takes tells nothing.
        is_key = sum(hmac.compare_digest(found, one) for one in self._keys)
        return bool(is_key) or self._is_token(secret.strip())

    def _is_token(self, secret: str) -> bool:
        expiry, _, signature = secret.partition(".")
        is_time = re.fullmatch("[0-9]{1,12}", expiry) is not None
        if self._access != Access.TOKEN or not is_time or int(expiry) < time.time():
            return False
        return hmac.compare_digest(sign_token(self._token_key, expiry).encode(), signature.encode())


class Endpoint:
    """Answers for one revision, by a compiled model in this process or by replicas."""

    def __init__(self, revision: Revision, pool: Pool, compiled: Any) -> None:
        self._revision = revision
        self._pool = pool
        self._compiled = compiled
        #: Nobody, until the supervisor has said who.
        self.keys = Keys(Access.KEY, (), "")
        self.statistics = Statistics()
        self._logged_share = revision.deployment.logged_share
        self._origins = Origins(revision.variables.get(ORIGINS_VARIABLE, ""))
        self._addresses: Dict[str, _Address] = {
            "/score": (self._score, _ASKED), "/invocations": (self._invocations, _ASKED), "/": (self._alive, _READ),
            "/ping": (self._alive, _READ), "/health": (self._alive, _READ), "/swagger.json": (self._swagger, _READ),
            "/metrics": (self._metrics, _READ), "/version": (self._version, _READ), "/v2": (self._server, _READ),
            "/v2/health/live": (self._live, _READ), "/v2/health/ready": (self._ready, _READ), "*": (self._alive, _ALL),
        }  # fmt: skip

    @property
    def facts(self) -> Optional[ModelFacts]:
        """The model's; None before it is loaded."""
        return self._compiled.facts() if self._compiled is not None else self._pool.facts

    def handle(self, request: Request, respond: Responder) -> None:
        """Answer one request, now or once the model has."""
        self.statistics.in_flight += 1
        try:
            if self._origins:
                respond = self._origins.answering(request, respond)
                if self._origins.is_preflight(request):
                    respond(204, b"", JSON, origins.preflight_headers(request))
                    return
            if not self.keys.is_open and not self._may(request):
                said = f"A {self.keys.kind} of this service is needed: 'Authorization: Bearer <{self.keys.kind}>'."
                respond(401, _error(said), JSON, {"WWW-Authenticate": "Bearer"})
                return
            act, methods = self._addresses.get(request.path) or self._by_pattern(request.path)
            if (request.method in methods and not request.encoding) or self._is_scripts(request):
                act(request, respond)
            else:
                _decline(request, methods, respond)
        except BadRequestError as error:
            respond(400, _error(str(error)), JSON, None)
        except ScoringError as error:
            _refuse(respond, error)
        except Exception as error:  # noqa: BLE001 - one request's failure is no other's
            _note(f"{request.method} {request.path[:200]!r} failed: {error!r}")
            respond(500, _error(f"The request failed: {type(error).__name__}."), JSON, None)

    def count(self, request: Request, status: int) -> None:
        """A request is answered: count it, and log it where it failed, or by its share."""
        seconds = time.monotonic() - request.began
        statistics = self.statistics
        statistics.in_flight -= 1
        statistics.finished(status, seconds)
        if status >= 500 or (self._logged_share and random.random() < self._logged_share):
            _log(request, status, seconds)

    def _may(self, request: Request) -> bool:
        return request.path in OPEN_PATHS or self.keys.lets_in(request.header(b"authorization"))

    # What a request asks for.

    def _is_scripts(self, request: Request) -> bool:
        """A script of one's own takes any method, and may unpack what this front does not."""
        facts = self.facts
        return request.path == "/score" and facts is not None and facts.kind == SCRIPT

    def _by_pattern(self, path: str) -> "_Address":
        found = _TENSORFLOW.fullmatch(path)
        if found is not None:
            self._check_name(found[1], found[2])
            is_asked = (found[3] or "").startswith(":")
            return partial(self._tensorflow, found[3] or ""), _ASKED if is_asked else _READ
        found = _OPEN_INFERENCE.fullmatch(path)
        if found is not None:
            self._check_name(found[1], found[2])
            return partial(self._open_inference, found[3] or ""), _ASKED if found[3] == "/infer" else _READ
        raise ScoringError(404, f"This service has no address {path[:200]!r}; see /swagger.json.")

    def _check_name(self, model: str, version: Optional[str]) -> None:
        known = (self._revision.model, self._revision.service, "model")
        if model not in known or version not in (None, self._revision.model_version):
            raise ScoringError(
                404, f"This service has the model {self._revision.model!r}, version {self._revision.model_version}."
            )

    def _score(self, request: Request, respond: Responder) -> None:
        facts = self._loaded()
        if facts.kind == SCRIPT:
            self._to_script(request, respond)
            return
        body = request.body
        self._ask(facts, table_question(facts, body, FORMS) or decode_any(facts, loads(body)), respond)

    def _invocations(self, request: Request, respond: Responder) -> None:
        facts = self._tensors()
        self._ask(facts, mlflow_json.decode(facts, request.body, request.header(b"content-type")), respond)

    def _tensorflow(self, what: str, request: Request, respond: Responder) -> None:
        facts = self._tensors()
        if what == ":predict":
            body = request.body
            asked = table_question(facts, body, tensorflow_rest.FORMS)
            self._ask(facts, asked or tensorflow_rest.predict(facts, load_object(body)), respond)
        elif what in (":classify", ":regress"):
            self._ask(facts, tensorflow_rest.examples(facts, load_object(request.body), what[1:]), respond)
        elif what == "/metadata":
            respond(
                200,
                dumps(tensorflow_rest.metadata(facts, self._revision.model, self._revision.model_version)),
                JSON,
                None,
            )
        else:
            state = {
                "version": self._revision.model_version,
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            respond(200, dumps({"model_version_status": [state]}), JSON, None)

    def _open_inference(self, what: str, request: Request, respond: Responder) -> None:
        if what == "/ready":
            self._ready(request, respond)
            return
        facts = self._tensors()
        model, version = self._revision.model, self._revision.model_version
        if what == "/infer":
            length = request.header(open_inference.HEADER_LENGTH)
            self._ask(facts, open_inference.decode(facts, request.body, length, model, version), respond)
        else:
            respond(200, dumps(open_inference.metadata(facts, model, version)), JSON, None)

    def _alive(self, request: Request, respond: Responder) -> None:
        respond(200, b"Healthy", _TEXT, None)

    def _live(self, request: Request, respond: Responder) -> None:
        respond(200, dumps({"live": True}), JSON, None)

    def _ready(self, request: Request, respond: Responder) -> None:
        is_ready = self._compiled is not None or self._pool.ready_count > 0
        body = {"name": self._revision.model, "ready": is_ready} if "/models/" in request.path else {"ready": is_ready}
        respond(200 if is_ready else 503, dumps(body), JSON, None)

    def _version(self, request: Request, respond: Responder) -> None:
        from runyard import __version__

        respond(200, __version__.encode(), _TEXT, None)

    def _server(self, request: Request, respond: Responder) -> None:
        from runyard import __version__

        respond(
            200, dumps({"name": "runyard", "version": __version__, "extensions": ["binary_tensor_data"]}), JSON, None
        )

    def _swagger(self, request: Request, respond: Responder) -> None:
        path = scoring_path(self._revision.framework, self._revision.model)
        respond(
            200,
            dumps(swagger.describe(self._loaded(), self._revision.service, path, not self.keys.is_open)),
            JSON,
            None,
        )

    def _metrics(self, request: Request, respond: Responder) -> None:
        text = self.statistics.exposition(
            self._revision.service, self._pool.ready_count or int(self._compiled is not None)
        )
        respond(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8", None)

    # The model.

    def _loaded(self) -> ModelFacts:
        facts = self.facts
        if facts is None:
            raise ScoringError(503, "No process has the model loaded at the moment; try again.")
        return facts

    def _tensors(self) -> ModelFacts:
        facts = self._loaded()
        if facts.kind == SCRIPT:
            raise ScoringError(404, "This service is an entry script: post to /score.")
        return facts

    def _ask(self, facts: ModelFacts, question: Question, respond: Responder) -> None:
        if self._compiled is not None:
            first = next(iter(question.inputs.values()))
            self.statistics.rows += len(first) if first.ndim else 1
            try:
                outputs = self._compiled.predict(question.signature, question.inputs)
            except (ValueError, IndexError, TypeError) as error:
                raise BadRequestError(f"The model refused the input: {error}") from None
            respond(200, *question.encode(outputs))
            return
        signature = facts.signatures[question.signature]
        goes_by_rows = all(one.shape is None or one.shape[:1] == (-1,) for one in signature.inputs)
        count = rows_of(question.inputs) if goes_by_rows else 0
        self.statistics.rows += count or 1
        self._pool.submit(Job(question.signature, question.inputs, count, _answer(question, respond)))

    def _to_script(self, request: Request, respond: Responder) -> None:
        header: Dict[str, Any] = {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": request.headers(),
        }
        header["headers"].pop("authorization", None)

        def done(made: Any, error: Optional[ScoringError]) -> None:
            if error is not None:
                _refuse(respond, error)
                return
            status, headers, body = made
            if not 200 <= status <= 599:
                respond(502, _error(f"The script answered with the status {status}."), JSON, None)
                return
            kind = next((headers.pop(name) for name in list(headers) if name.lower() == "content-type"), JSON)
            for name in [one for one in headers if one.lower() in _OURS]:
                del headers[name]
            respond(status, body, kind, headers or None)

        self._pool.submit(Job("", {}, 0, done, header, request.body))


def _decline(request: Request, methods: Sequence[str], respond: Responder) -> None:
    """What an address does not take, and which methods it does."""
    allow = {"Allow": ", ".join((*methods, "OPTIONS"))}
    if request.method == "OPTIONS":
        respond(204, b"", JSON, allow)
    elif request.method not in methods:
        said = f"{request.path[:200]} takes {' and '.join(methods)}, and not {request.method}."
        respond(405, _error(said), JSON, allow)
    else:
        said = f"Bodies come as they are or packed by gzip or deflate, and not by {request.encoding[:100]!r}."
        respond(415, _error(said), JSON, {"Accept-Encoding": "gzip, deflate, identity"})


def _log(request: Request, status: int, seconds: float) -> None:
    line = {
        "at": round(time.time(), 3), "method": request.method, "path": request.path, "status": status,
        "seconds": round(seconds, 6), "bytes": len(request.body),
    }  # fmt: skip
    _note("request " + json.dumps(line))


def _answer(question: Question, respond: Responder) -> Callable[[Any, Optional[ScoringError]], None]:
    def done(outputs: Any, error: Optional[ScoringError]) -> None:
        if error is not None:
            _refuse(respond, error)
            return
        try:
            respond(200, *question.encode(outputs))
        except BadRequestError as problem:
            respond(400, _error(str(problem)), JSON, None)
        except Exception as problem:  # noqa: BLE001 - what a model says may be anything; its caller gets an answer
            respond(502, _error(f"The model's answer cannot be told: {type(problem).__name__}: {problem}"), JSON, None)

    return done


def decode_any(facts: ModelFacts, found: Any) -> Question:
    """A scoring request in whichever shape it comes."""
    if isinstance(found, list):
        return rows.decode(facts, {"data": found})
    if not isinstance(found, dict):
        raise BadRequestError("The body is a JSON object, or a list of rows.")
    if "data" in found:
        return rows.decode(facts, found)
    if onnx_json.is_meant(found):
        return onnx_json.decode(facts, found)
    if "dataframe_split" in found or "dataframe_records" in found:
        return mlflow_json.from_json(facts, found)
    if "instances" in found or "inputs" in found:
        return tensorflow_rest.predict(facts, found)
    raise BadRequestError('The body has "data" (rows), "instances", "inputs" or "dataframe_split"; see /swagger.json.')


def _note(line: str) -> None:
    """A line in the service's log; a full disk stops no answer."""
    with suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def _refuse(respond: Responder, error: ScoringError) -> None:
    respond(error.status, _error(str(error)), JSON, {"Retry-After": "1"} if error.status == 503 else None)


def _error(sentence: str) -> bytes:
    return dumps({"error": sentence})

"""Plain HTTP to a service: what any client in any language does."""

import json
import urllib.error
import urllib.request
from typing import Any


def post(url: str, body: Any, **headers: str) -> tuple[int, Any]:
    """(status, decoded JSON)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, content = ask(urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}))
    return status, json.loads(content)


def get(url: str) -> tuple[int, Any]:
    """(status, decoded JSON)."""
    status, content = ask(urllib.request.Request(url))
    return status, json.loads(content)


def ask(request: urllib.request.Request) -> tuple[int, bytes]:
    """(status, body), whatever the status."""
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def infer(base: str, model: str, outputs: tuple[str, ...] = (), **inputs: tuple[str, Any]) -> dict[str, Any]:
    """Open Inference: inputs as (datatype, nested lists); the outputs' flat values by name."""
    tensors = []
    for name, (datatype, data) in inputs.items():
        shape, level = [], data
        while isinstance(level, list):
            shape.append(len(level))
            level = level[0]
        tensors.append({"name": name, "shape": shape, "datatype": datatype, "data": data})
    body: dict[str, Any] = {"inputs": tensors}
    if outputs:
        body["outputs"] = [{"name": one} for one in outputs]
    status, answer = post(f"{base}/v2/models/{model}/infer", body)
    assert status == 200, answer
    assert answer["model_name"] == model
    return {one["name"]: one["data"] for one in answer["outputs"]}

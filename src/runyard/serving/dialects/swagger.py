"""``/swagger.json`` (Swagger 2.0, as v1 served it): the model's real inputs, or what the script's decorators say."""

import json
from typing import Any, Dict

from runyard.protocol.scoring import OBJECT, ROWS, SCRIPT, ModelFacts, TensorFacts


def describe(facts: ModelFacts, service: str, path: str, has_auth: bool) -> Dict[str, Any]:
    """The document for one service."""
    taken, given = _schemas(facts)
    operation: Dict[str, Any] = {
        "operationId": "RunMLService",
        "description": "Run the model of this service.",
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "parameters": [
            {
                "name": "serviceInputPayload",
                "in": "body",
                "required": True,
                "schema": {"$ref": "#/definitions/ServiceInput"},
            }
        ],
        "responses": {
            "200": {"description": "The outputs.", "schema": {"$ref": "#/definitions/ServiceOutput"}},
            "default": {"description": "An error.", "schema": {"$ref": "#/definitions/ErrorResponse"}},
        },
    }
    document: Dict[str, Any] = {
        "swagger": "2.0",
        "info": {"title": service, "description": f"API of the service {service}.", "version": "1.0"},
        "schemes": ["http", "https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": {
            "/": {"get": {"operationId": "ServiceHealthCheck", "responses": {"200": {"description": "It is well."}}}},
            path: {"post": operation},
        },
        "definitions": {
            "ServiceInput": taken,
            "ServiceOutput": given,
            "ErrorResponse": {"type": "object", "properties": {"error": {"type": "string"}}},
        },
    }
    if has_auth:
        document["securityDefinitions"] = {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}}
        operation["security"] = [{"Bearer": []}]
    return document


def _schemas(facts: ModelFacts) -> Any:
    if facts.kind == SCRIPT:
        said = json.loads(facts.schema) if facts.schema else {}
        return said.get("input") or {"type": "object"}, said.get("output") or {"type": "object"}
    signature = facts.signatures[facts.default]
    if facts.kind == ROWS:
        (taken,) = signature.inputs
        width = taken.shape[1] if taken.shape and len(taken.shape) > 1 else -1
        row: Dict[str, Any] = {"type": "array", "items": {} if taken.dtype == OBJECT else {"type": "number"}}
        if width > 0:
            row.update(minItems=width, maxItems=width)
        if facts.columns:
            row["description"] = "The columns, in this order: " + ", ".join(facts.columns)
        methods = {"type": "string", "enum": list(facts.signatures), "default": facts.default}
        properties = {"data": {"type": "array", "items": row}, "method": methods}
        outputs = {name: {"type": "array"} for name in facts.signatures}
        return (
            {"type": "object", "required": ["data"], "properties": properties},
            {"type": "object", "properties": outputs},
        )
    inputs = {one.name: _array(one) for one in signature.inputs}
    rows = next(iter(inputs.values())) if len(inputs) == 1 else {"type": "object", "properties": inputs}
    names = {"type": "string", "enum": list(facts.signatures), "default": facts.default}
    taken_schema = {
        "type": "object",
        "properties": {
            "signature_name": names,
            "instances": rows if len(inputs) == 1 else {"type": "array", "items": rows},
            "inputs": rows,
        },
    }
    outputs = {one.name: _array(one) for one in signature.outputs}
    return taken_schema, {
        "type": "object",
        "properties": {"predictions": {"type": "array"}, "outputs": {"type": "object", "properties": outputs}},
    }


def _array(one: TensorFacts) -> Dict[str, Any]:
    kind = (
        "string"
        if one.dtype == OBJECT
        else "boolean"
        if one.dtype == "bool"
        else "number"
        if "float" in one.dtype
        else "integer"
    )
    schema: Dict[str, Any] = {"type": kind}
    for size in reversed(one.shape or ()):
        schema = {"type": "array", "items": schema, **({"minItems": size, "maxItems": size} if size > 0 else {})}
    return schema

"""The OpenAPI 3.1 document, made from the tables and messages of the routes: it cannot lag behind them."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tradewind import __version__
from tradewind.api.commands import BULK_PATH, COMMAND_ROUTES, BulkAnswer, BulkRequest
from tradewind.api.problems import CONTENT_TYPE, ProblemBody
from tradewind.api.reads import READ_ROUTES, ReadRoute
from tradewind.engine.messages import Answer

OPENAPI_PATH: Final = "/v1/openapi.json"
_REFERENCE: Final = "#/components/schemas/{name}"
_COMMAND_PROBLEMS: Final = (400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503, 504)
_READ_PROBLEMS: Final = (400, 401, 403, 404, 409, 410, 422, 429, 503)
_HEALTH_PROBLEMS: Final = (400, 503)

Json = dict[str, Any]


def document() -> Json:
    """All of it, as JSON can hold it."""
    types = [route.body for route in COMMAND_ROUTES] + [route.query for route in READ_ROUTES]
    types += [route.answer for route in READ_ROUTES] + [BulkRequest, BulkAnswer, Answer, ProblemBody]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    references = dict(zip(types, schemas, strict=True))
    paths: dict[str, Json] = {}
    for route in COMMAND_ROUTES:
        paths.setdefault(route.path, {})["post"] = _command(
            route.summary, f"Scope: {route.scope}.", references[route.body], references[Answer]
        )
    paths[BULK_PATH] = {
        "post": _command(
            "Place up to 1,000 orders", "Scope: trade.", references[BulkRequest], references[BulkAnswer]
        )
    }
    for read in READ_ROUTES:
        paths.setdefault(read.path, {})["get"] = _read(read, components, references[read.answer])
    for path in ("/health/live", "/health/ready"):
        paths[path] = {"get": _operation("Health", {"type": "object"}, _HEALTH_PROBLEMS) | {"security": []}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tradewind", "version": __version__},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _portable(components),
        },
    }


def _command(summary: str, description: str, body: Json, answer: Json) -> Json:
    return _operation(summary, answer, _COMMAND_PROBLEMS) | {
        "description": description,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
    }


def _read(route: ReadRoute, components: Json, answer: Json) -> Json:
    form = components[route.query.__name__]
    required = form.get("required", [])
    parameters = [
        {
            "name": name,
            "in": "path" if f"{{{name}}}" in route.path else "query",
            "required": name in required,
            "schema": _portable(schema),
        }
        for name, schema in form["properties"].items()
    ]
    return _operation(route.summary, answer, _READ_PROBLEMS) | {
        "description": "Scope: read.",
        "parameters": parameters,
    }


def _operation(summary: str, answer: Json, problems: Iterable[int]) -> Json:
    refusal = {CONTENT_TYPE: {"schema": {"$ref": _REFERENCE.format(name="ProblemBody")}}}
    responses: Json = {"200": {"description": "Done.", "content": {"application/json": {"schema": answer}}}}
    for status in problems:
        responses[str(status)] = {"description": "A problem.", "content": refusal}
    return {"summary": summary, "responses": responses}


def _portable(schema: Any) -> Any:
    r"""Patterns as ECMA 262 writes them: Python's end of a string is `\Z` there `$`."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\Z", "$")
            if name == "pattern" and isinstance(value, str)
            else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema

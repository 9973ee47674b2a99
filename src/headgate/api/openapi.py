"""The OpenAPI description, made from the routes and the structs they take and give."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from headgate.api.application import Route
from headgate.api.exchange import JSON, Exchange
from headgate.api.wire.answers import ErrorBody

_REF = "#/components/schemas/{name}"


def describe(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Every route with its method, key, bodies and errors."""
    types: list[type] = [ErrorBody]
    for route in routes:
        types += [kind for kind in (route.takes, route.gives) if kind is not None and kind not in types]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    found = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, found)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headgate", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, found: dict[type, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.gives is not None:
        content["application/json"] = {"schema": found[route.gives]}
    if route.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in route.query
    ]
    parameters += [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{([a-z_]+)\}", route.path)
    ]
    operation: dict[str, Any] = {
        "summary": route.summary,
        "security": [] if route.scope is None else [{"key": []}],
        "x-headgate-scope": route.scope,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done.", "content": content},
            "default": {"description": "Refused or failed.", "content": _json(found[ErrorBody])},
        },
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _json(found[route.takes])}
    return operation


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def openapi_route(routes: Sequence[Route], version: str) -> Route:
    """The route that serves the description of the others and itself."""
    described: list[Route] = list(routes)
    body = b""

    async def get(exchange: Exchange) -> None:
        await exchange.send(body, 200, (JSON,))

    route = Route(method="GET", path="/openapi.json", endpoint=get, scope=None, summary="This description.")
    described.append(route)
    body = msgspec.json.encode(describe(described, version))
    return route

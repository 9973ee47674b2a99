"""The smallest instance of a JSON schema, which the scripted backend answers where one is asked for."""

from typing import Any

DEPTH_MAX = 32
SIZE_MAX = 10_000
"""No text or list is made longer than this, whatever the schema's minimum."""

Schema = dict[str, Any]
_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-0000-0000-000000000000",
}


def smallest_instance(schema: Any) -> Any:
    """Raises `ValueError` for a schema that nothing small satisfies, or with references that lead nowhere."""
    if not isinstance(schema, dict):
        return {} if schema is not False else _no("the schema `false`")
    return _instance(schema, schema, 0)


def _no(what: str) -> Any:
    raise ValueError(f"no small instance for {what}")


def _instance(schema: Any, root: Schema, depth: int) -> Any:
    if depth > DEPTH_MAX:
        return _no("a schema this deep or endless")
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return _instance(_lookup(schema["$ref"], root), root, depth + 1)
    if schema.get("allOf"):
        merged: Schema = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            _merge(merged, _lookup(part["$ref"], root) if "$ref" in part else part)
        return _instance(merged, root, depth + 1)
    for word in ("anyOf", "oneOf"):
        if schema.get(word):
            return _first(schema[word], root, depth)
    return _typed(schema, root, depth)


def _first(options: list[Any], root: Schema, depth: int) -> Any:
    for option in options:
        try:
            return _instance(option, root, depth + 1)
        except ValueError:
            continue
    return _no("any of the alternatives")


def _typed(schema: Schema, root: Schema, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = "null" if "null" in kind else kind[0]
    if kind is None:
        kind = "object" if "properties" in schema or "required" in schema else "array" if "items" in schema else "null"
    if kind == "object":
        known = schema.get("properties") or {}
        return {name: _instance(known.get(name, {}), root, depth + 1) for name in schema.get("required") or ()}
    if kind == "array":
        count = min(int(schema.get("minItems", 0)), SIZE_MAX)
        return [_instance(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    if kind == "string":
        text = _FORMATS.get(schema.get("format", ""), "")
        return text.ljust(min(int(schema.get("minLength", 0)), SIZE_MAX), "a")
    if kind in {"integer", "number"}:
        return _number(schema, whole=kind == "integer")
    return False if kind == "boolean" else None


def _number(schema: Schema, *, whole: bool) -> int | float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    value: float = 0
    if low is not None and low >= 0:
        value = low + 1 if "exclusiveMinimum" in schema else low
    elif high is not None and high <= 0:
        value = high - 1 if "exclusiveMaximum" in schema else high
    step = schema.get("multipleOf")
    if step and value % step:
        value += step - value % step
    return int(-(-value // 1)) if whole else value


def _lookup(reference: Any, root: Schema) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        return _no("a reference outside the schema")
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            return _no(f"the reference {reference}")
        found = found[key]
    return found


def _merge(into: Schema, part: Any) -> None:
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if key == "properties":
            into["properties"] = {**into.get("properties", {}), **value}
        elif key == "required":
            into["required"] = list(dict.fromkeys([*into.get("required", []), *value]))
        else:
            into.setdefault(key, value)

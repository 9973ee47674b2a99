"""Whether plain data fits a JSON Schema: the part of it that msgspec writes."""

from typing import Any

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


def misfits(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str = "$") -> list[str]:
    """What does not fit, and where."""
    if "$ref" in schema:
        return misfits(value, root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root, place)
    if "anyOf" in schema:
        found = [misfits(value, option, root, place) for option in schema["anyOf"]]
        return [] if [] in found else [f"{place}: fits none"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{place}: {value!r} is none of {schema['enum']}"]
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, KINDS[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [f"{place}: {value!r} is no {kind}"]
    if value is not None and not isinstance(value, str | dict | list):
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            return [f"{place}: {value!r} is out of range"]
    bad: list[str] = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        bad += [f"{place}: lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            more = known.get(name, schema.get("additionalProperties", {}))
            bad += [f"{place}: unknown {name}"] if more is False else misfits(item, more, root, f"{place}.{name}")
    if isinstance(value, list):
        for number, item in enumerate(value):
            bad += misfits(item, schema.get("items", {}), root, f"{place}[{number}]")
    return bad

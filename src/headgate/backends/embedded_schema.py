"""Which part of a JSON schema cannot be enforced, by name and path, before llguidance is asked.

llguidance refuses most of what it cannot enforce, but says what, not where; and some it enforces wrongly. Both were
found by reading it (1.9) and by the JSON Schema Test Suite (`tests/engine/schemas`).
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

Path = tuple[str, ...]
MAX_DEPTH = 64
MAX_EXACT = 2**53
"""Beyond, numbers are not exact in every reader of JSON."""
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown"}
)
_YEAR = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = rf"(?:{_YEAR}-(?:0[13-9]|1[0-2])-\d\d|{_YEAR}-02-(?:[01]\d|2[0-8])|{_LEAP}-02-29)"
_CLOCK = r"\d\d:\d\d:[0-5]\d"
_LABEL = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_NARROWED = {
    "date": f"^{_DAY}$",
    "time": f"^{_CLOCK}",
    "date-time": f"^{_DAY}[tT]{_CLOCK}",
    "hostname": rf"^{_LABEL}(?:\.{_LABEL})*$",
}
"""What llguidance's formats let through beyond the standards: the 29th of any February, leap seconds at any time, names
that look like Punycode (RFC 3339, RFC 5890). Some that are valid are left out with them."""
_LONGEST_HOSTNAME = 253
_TYPES = frozenset({"null", "boolean", "number", "integer", "string", "array", "object"})
_UNENFORCED = {
    "not": "remove it, or say with enum, const or type what is allowed",
    "if": "write the cases as anyOf, each with a const that tells it",
    "contains": "remove it, or give the item a place of its own with prefixItems",
    "uniqueItems": "remove it, and check the answer",
    "propertyNames": "write patternProperties with additionalProperties false",
    "unevaluatedProperties": "write additionalProperties",
    "unevaluatedItems": "write items",
    "dependentRequired": "write the cases as anyOf",
    "dependentSchemas": "write the cases as anyOf",
    "dependencies": "write the cases as anyOf",
    "$dynamicRef": "write $ref",
    "$recursiveRef": "write $ref",
    "extends": "write allOf",
    "disallow": "say with type what is allowed",
    "divisibleBy": "write multipleOf",
}
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "unevaluatedProperties": (True, {}),
    "unevaluatedItems": (True, {}),
    "propertyNames": (True, {}),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "dependencies": ({},),
    "disallow": ([],),
}
"""Values with which such a keyword says nothing."""
_PARTNERS = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}
"""Keywords that say nothing without another."""
_NO_CONSTRAINT = frozenset({"$dynamicAnchor", "$recursiveAnchor"})
_ONE = frozenset({"additionalProperties", "items", "additionalItems"})
_MANY = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})
_BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_LOOKS = re.compile(r"(?<!\\)(?:\\\\)*(?:\(\?(?:[=!]|<[=!])|\\[1-9bB]|\\k<)")
_SATISFIED = ("required", "enum", "const", "allOf", "anyOf", "oneOf", "minItems", "prefixItems", "properties")
_HINTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("oneOf", ("oneOf",), "write anyOf, or let the cases differ in type or in a required const"),
    ("patternProperty", ("patternProperties",), "two of its patterns may match one name, or this cannot be told"),
    ("Properties", ("minProperties", "maxProperties"), "only what is not listed in properties can be counted"),
    ("esource", ("$ref", "$schema"), "it must point into the schema itself; write #/$defs/..."),
    ("nchor", ("$ref",), "there is no such place in the schema"),
    ("NoExtension", ("$ref", *_SATISFIED), "no value can satisfy it"),
    ("sibling keys", ("$ref",), "a circular $ref must stand alone"),
    ("multiple", ("multipleOf",), "write one with fewer digits"),
    ("regex", ("pattern", "patternProperties", "format"), "write a simpler pattern"),
    ("range", tuple(sorted(_BOUNDS)), "write bounds that leave room for a value"),
    ("nsatisfiable", (*_SATISFIED, *sorted(_BOUNDS | _COUNTS), "type"), "no value can satisfy it"),
)


class Trouble(Struct, frozen=True):
    """A keyword that stands in the way of enforcing a schema."""

    path: Path
    """Down to the keyword."""
    reason: str
    """With the remedy."""

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.reason}"


class _Document(Struct, frozen=True):
    """All of a schema."""

    schema: dict[str, Any]
    named: bool
    """Parts of it have names, which references may use."""


def first_trouble(schema: dict[str, Any]) -> Trouble | None:
    """What is in the way of enforcing all of the schema; None where nothing is known to be."""
    named = any("$id" in part for _, part in _schemas(schema, (), 0))
    return next(_troubles(_Document(schema, named), schema, (), 0), None)


def blamed(schema: Any, message: str) -> list[Trouble]:
    """What llguidance's `message` is probably about, where it cannot enforce the schema; the first few."""
    for fragment, keywords, remedy in _HINTS:
        if fragment not in message:
            continue
        named = [keyword for keyword in keywords if re.search(rf"\b{re.escape(keyword)}\b", message)]
        for blamable in (named, keywords):
            found = [
                Trouble((*path, keyword), f"'{keyword}' cannot be enforced: {remedy}")
                for path, part in _schemas(schema, (), 0)
                for keyword in blamable
                if keyword in part
            ]
            if found:
                return found[:3]
    return []


def effective(schema: Any, depth: int = 0) -> Any:
    """The schema as llguidance takes it: without keywords that say nothing, and with numbers that it reads exactly."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return schema
    out = {}
    for key, value in schema.items():
        if key in _NO_CONSTRAINT or _says_nothing(schema, key, value):
            continue
        if key in _ONE and not isinstance(value, list):
            value = effective(value, depth + 1)
        elif (key in _MANY or key == "items") and isinstance(value, list):
            value = [effective(one, depth + 1) for one in value]
        elif key in _NAMED and isinstance(value, dict):
            value = {name: effective(one, depth + 1) for name, one in value.items()}
        elif key in _COUNTS and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif key in _BOUNDS and isinstance(value, int) and abs(value) > MAX_EXACT:
            value = _inward(key, value)
        out[key] = value
    return _narrowed(out)


def _narrowed(schema: dict[str, Any]) -> dict[str, Any]:
    """With a pattern beside the format, where the format alone lets too much through."""
    kind = schema.get("format")
    pattern = _NARROWED.get(kind) if isinstance(kind, str) else None
    if pattern is None:
        return schema
    limits: dict[str, Any] = {"pattern": pattern}
    if kind == "hostname":
        limits["maxLength"] = _LONGEST_HOSTNAME
    if not limits.keys() & schema.keys():
        return {**schema, **limits}
    others = schema.get("allOf")
    return {**schema, "allOf": [*(others if isinstance(others, list) else ()), limits]}


def _says_nothing(schema: dict[str, Any], key: str, value: Any) -> bool:
    partner = _PARTNERS.get(key)
    if partner is not None:
        return partner not in schema
    return any(value == nothing and value.__class__ is nothing.__class__ for nothing in _WITHOUT_EFFECT.get(key, ()))


def _inward(key: str, value: int) -> float:
    """The nearest number that is exact as a float, and is not beyond the bound."""
    exact = float(value)
    if key in {"maximum", "exclusiveMaximum"} and exact > value:
        return math.nextafter(exact, -math.inf)
    if key in {"minimum", "exclusiveMinimum"} and exact < value:
        return math.nextafter(exact, math.inf)
    return exact


def _schemas(schema: Any, path: Path, depth: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every schema in a schema; `enum` and `const` hold values, not schemas."""
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        return
    yield path, schema
    for below, part in _parts(schema, path):
        yield from _schemas(part, below, depth + 1)


def _parts(schema: dict[str, Any], path: Path) -> Iterator[tuple[Path, Any]]:
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, dict):
            yield from (((*path, key, name), one) for name, one in value.items())
        elif (key in _MANY or key == "items") and isinstance(value, list):
            yield from (((*path, key, str(index)), one) for index, one in enumerate(value))
        elif key in _ONE:
            yield (*path, key), value


def _troubles(root: _Document, schema: Any, path: Path, depth: int) -> Iterator[Trouble]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield Trouble(path, "a schema is an object, true or false")
        return
    if depth > MAX_DEPTH:
        yield Trouble(path, f"the schema is nested deeper than {MAX_DEPTH}; use $ref")
        return
    for key, value in schema.items():
        reason = _reason(root, schema, key, value)
        if reason is not None:
            yield Trouble((*path, key), reason)
    for below, part in _parts(schema, path):
        yield from _troubles(root, part, below, depth + 1)


def _reason(root: _Document, schema: dict[str, Any], key: str, value: Any) -> str | None:
    """Why this keyword with this value cannot be enforced."""
    remedy = _UNENFORCED.get(key)
    if remedy is not None:
        return None if _says_nothing(schema, key, value) else f"'{key}' cannot be enforced; {remedy}"
    if key == "$ref":
        return _reference(root, value)
    if key == "$id" and "$ref" in schema:
        return "'$id' cannot be enforced beside '$ref': drafts differ in what it means there; remove it"
    if key == "additionalItems" and "prefixItems" in schema:
        return "'additionalItems' cannot be enforced beside 'prefixItems'; write items"
    if key == "minProperties":
        return _count(key, value) or _least(schema, value)
    check = _CHECKS.get(key)
    return None if check is None else check(key, value)


def _reference(root: _Document, value: Any) -> str | None:
    """Names and other documents are llguidance's to find; a path is looked up here, for a better word."""
    if not isinstance(value, str):
        return "'$ref' cannot be enforced: it is a string"
    if (not value.startswith("#") and not root.named) or re.match(r"https?://json-schema\.org/", value):
        return f"'$ref' cannot be enforced: {value!r} does not point into the schema; write #/$defs/..."
    if not value.startswith("#/") or root.named:
        return None
    target: Any = root.schema
    for part in value.split("/")[1:]:
        name = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and name in target:
            target = target[name]
        elif isinstance(target, list) and name.isdecimal() and int(name) < len(target):
            target = target[int(name)]
        else:
            return f"'$ref' cannot be enforced: there is nothing at {value!r}"
    return None


def _least(schema: dict[str, Any], value: float) -> str | None:
    """Names that are not listed may come twice, and are then one: only what must be there anyhow is sure to count."""
    required = schema.get("required")
    sure = len(set(map(str, required))) if isinstance(required, list) else 0
    if value > max(1, sure):
        return "'minProperties' cannot be enforced beyond 1 and what is required; name them in required"
    return None


def _type(key: str, value: Any) -> str | None:
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str) or one not in _TYPES:
            return f"'{key}' cannot be enforced: {one!r} is no type"
    return None


def _format(key: str, value: Any) -> str | None:
    if value in FORMATS:
        return None
    return f"'{key}' cannot be enforced: {value!r} is none of {', '.join(sorted(FORMATS - {'unknown'}))}"


def _pattern(key: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"'{key}' cannot be enforced: a pattern is a string"
    if _LOOKS.search(value):
        return f"'{key}' cannot be enforced: no look-around and no back-reference; write a simpler pattern"
    return None


def _patterns(key: str, value: Any) -> str | None:
    found = (_pattern(key, one) for one in value) if isinstance(value, dict) else ()
    return next((reason for reason in found if reason), None)


def _count(key: str, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        return f"'{key}' cannot be enforced: it is a whole number, 0 or more"
    return None


def _bound(key: str, value: Any) -> str | None:
    """Draft 4 has booleans for exclusive bounds."""
    return None if isinstance(value, int | float) else f"'{key}' cannot be enforced: it is a number"


def _literal(key: str, value: Any, depth: int = 0) -> str | None:
    """Numbers that a reader of JSON would round cannot be written exactly."""
    if depth > MAX_DEPTH:
        return f"'{key}' cannot be enforced: it is nested deeper than {MAX_DEPTH}"
    if isinstance(value, int) and abs(value) > MAX_EXACT:
        return f"'{key}' cannot be enforced: {value} is beyond 2**53, where numbers of JSON are not exact"
    if isinstance(value, list | dict):
        parts = value.values() if isinstance(value, dict) else value
        return next((reason for one in parts if (reason := _literal(key, one, depth + 1))), None)
    return None


_CHECKS: dict[str, Callable[[str, Any], str | None]] = {
    "type": _type,
    "format": _format,
    "pattern": _pattern,
    "patternProperties": _patterns,
    "enum": _literal,
    "const": _literal,
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_BOUNDS, _bound),
}

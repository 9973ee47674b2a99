"""What strict mode enforces, and what it refuses by keyword and path: our own cases, each a line."""

import json
from typing import Any

import pytest

from headgate.core.errors import BadCall
from tests.engine.schemas import walk

ANY: dict[str, Any] = {}
DEEP: Any = {}
for _ in range(100):
    DEEP = {"type": "array", "items": DEEP}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"properties": {"a": {"not": {"type": "null"}}}}, "properties.a.not: 'not'"),
    ({"anyOf": [{}, {"if": {}, "then": {}}]}, "anyOf.1.if: 'if'"),
    ({"$defs": {"d": {"type": "array", "contains": {}}}, "$ref": "#/$defs/d"}, "$defs.d.contains: 'contains'"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems: 'uniqueItems'"),
    ({"items": {"propertyNames": {"maxLength": 3}}}, "items.propertyNames: 'propertyNames'"),
    ({"unevaluatedProperties": False, "type": "object"}, "unevaluatedProperties: 'unevaluatedProperties'"),
    ({"dependentRequired": {"a": ["b"]}}, "dependentRequired: 'dependentRequired'"),
    ({"dependencies": {"a": ["b"]}}, "dependencies: 'dependencies'"),
    ({"$dynamicRef": "#x"}, "$dynamicRef: '$dynamicRef'"),
    ({"type": "elephant"}, "type: 'type'"),
    ({"type": ["string", 3]}, "type: 'type'"),
    ({"type": "string", "format": "iri"}, "format: 'format'"),
    ({"type": "string", "pattern": "^(?!x)"}, "pattern: 'pattern'"),
    ({"type": "string", "pattern": r"(a)\1"}, "pattern: 'pattern'"),
    ({"type": "string", "pattern": "(a"}, "pattern: 'pattern'"),
    ({"patternProperties": {"(?<=a)b": {}}}, "patternProperties: 'patternProperties'"),
    ({"patternProperties": {"^a": {}, "b$": {}}}, "patternProperties: 'patternProperties'"),
    ({"type": "object", "minProperties": 2}, "minProperties: 'minProperties'"),
    ({"type": "object", "minProperties": -1}, "minProperties: 'minProperties'"),
    ({"type": "string", "maxLength": 1.5}, "maxLength: 'maxLength'"),
    ({"type": "number", "minimum": "3"}, "minimum: 'minimum'"),
    ({"type": "integer", "minimum": 3, "exclusiveMaximum": 3}, "exclusiveMaximum: 'exclusiveMaximum'"),
    ({"enum": [2**60]}, "enum: 'enum'"),
    ({"enum": []}, "enum: 'enum'"),
    ({"const": {"a": [10**30]}}, "const: 'const'"),
    ({"prefixItems": [{}], "additionalItems": False}, "additionalItems: 'additionalItems'"),
    ({"$ref": "#/$defs/gone"}, "$ref: '$ref'"),
    ({"$ref": "http://127.0.0.1:9/x"}, "$ref: '$ref'"),
    ({"$ref": "#anchor"}, "$ref: '$ref'"),
    ({"$ref": "#"}, "$ref: '$ref'"),
    ({"properties": {"x": {"oneOf": [{"minimum": 1}, {"maximum": 9}]}}}, "properties.x.oneOf: 'oneOf'"),
    ({"required": ["a"], "additionalProperties": False, "type": "object"}, "required: 'required'"),
]
ENFORCED: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13, 1.5]),
    ({"type": "number", "multipleOf": 0.25, "minimum": 0}, [0.25, 3], [0.3, -1]),
    ({"type": "integer", "maximum": 2**63 - 1}, [2**53, -7], [2**63, 2**64]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "ü🙂c"], ["a", "abcd"]),
    ({"type": "string", "maxLength": 2.0}, ["ab"], ["abc"]),
    ({"type": "string", "pattern": "b+"}, ["abba", "b"], ["", "aa"]),
    ({"type": "string", "format": "date"}, ["2024-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-04-31"]),
    ({"type": "string", "format": "date-time", "pattern": "Z$"}, ["2000-02-29T12:00:59Z"], ["2000-02-29T12:00:60Z"]),
    ({"format": "time"}, ["12:00:59Z", 7], ["12:00:60Z", "12:00"]),
    ({"type": "string", "format": "hostname"}, ["a-b.example"], ["-a", "xn--x", "a" * 64]),
    ({"type": "array", "items": {"type": "null"}, "maxItems": 2}, [[], [None, None]], [[None] * 3, [1]]),
    ({"type": "array", "uniqueItems": False}, [[1, 1]], [{}]),
    ({"prefixItems": [{"const": 1}], "items": False, "minItems": 1, "type": "array"}, [[1]], [[], [1, 2]]),
    ({"properties": {"a": {"const": 1}}, "required": ["a"], "type": "object"}, [{"a": 1}], [{}, {"a": 2}]),
    ({"additionalProperties": {"type": "null"}, "maxProperties": 1}, [{}, {"x": None}], [{"x": 1}]),
    ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"enum": ["x", 2]}}}, ["x", 2], ["y"]),
    ({"$defs": {"n": {"$anchor": "here", "type": "null"}}, "$ref": "#here"}, [None], [1]),
    ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}]}, [None, [None, []]], [1, [1]]),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, ["a", 1], [None, 1.5]),
    ({"allOf": [{"minimum": 3}, {"maximum": 5}], "type": "integer"}, [3, 5], [2, 6]),
    ({"then": {"type": "null"}, "type": "integer"}, [1], [None]),
    ({"enum": ["a\n", 'q"', 1.5, {"a": [None]}]}, ["a\n", 'q"', {"a": [None]}], ["a"]),
    (ANY, [{"a": [1, "x", None, True]}, 1.5e9], []),
]


@pytest.mark.parametrize(("schema", "place"), REFUSED, ids=[place for _, place in REFUSED])
def test_what_cannot_be_enforced_is_refused_by_keyword_and_path(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(BadCall, match="cannot be enforced") as caught:
        walk.held(schema)
    assert caught.value.message.startswith(f"structured_outputs.json: {place}"), caught.value.message
    assert caught.value.param == "structured_outputs.json"


@pytest.mark.parametrize(("schema", "valid", "invalid"), ENFORCED, ids=[json.dumps(one[0])[:60] for one in ENFORCED])
def test_what_is_valid_is_let_through_and_what_is_not_is_kept_out(
    schema: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    assert [walk.accepts(schema, one) for one in valid] == [True] * len(valid)
    assert [walk.accepts(schema, one) for one in invalid] == [False] * len(invalid)


def test_depth_is_refused_with_its_place() -> None:
    with pytest.raises(BadCall, match="nested deeper than 64"):
        walk.held(DEEP)


OPENAI_STRICT: dict[str, Any] = {
    "type": "object",
    "description": "all that OpenAI's strict mode takes",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z_]+$", "description": "a name"},
        "mail": {"type": ["string", "null"], "format": "email"},
        "ip": {"type": "string", "format": "ipv4"},
        "count": {"type": "integer", "minimum": 1, "exclusiveMaximum": 5},
        "ratio": {"type": "number", "multipleOf": 0.5, "maximum": 2, "exclusiveMinimum": 0},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "minItems": 1, "maxItems": 2},
        "shape": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"kind": {"type": "string", "enum": ["dot"]}},
                    "required": ["kind"],
                    "additionalProperties": False,
                },
                {"$ref": "#/$defs/tree"},
            ]
        },
        "flag": {"type": "boolean"},
        "fixed": {"type": "string", "const": "yes"},
    },
    "required": ["name", "mail", "ip", "count", "ratio", "tags", "shape", "flag", "fixed"],
    "additionalProperties": False,
    "$defs": {
        "tag": {"type": "string", "enum": ["red", "green"]},
        "tree": {
            "type": "object",
            "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
            "required": ["left"],
            "additionalProperties": False,
        },
    },
}


def test_what_openai_takes_in_strict_mode_is_taken_and_enforced() -> None:
    good = {
        "name": "a_b",
        "mail": None,
        "ip": "10.0.0.1",
        "count": 4,
        "ratio": 1.5,
        "tags": ["red"],
        "shape": {"left": {"left": None}},
        "flag": True,
        "fixed": "yes",
    }
    assert walk.accepts(OPENAI_STRICT, good)
    for key, value in {
        "name": "A",
        "mail": "x",
        "ip": "1.2.3",
        "count": 5,
        "ratio": 0.7,
        "tags": [],
        "flag": 1,
    }.items():
        assert not walk.accepts(OPENAI_STRICT, {**good, key: value})

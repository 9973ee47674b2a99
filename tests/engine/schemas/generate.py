"""Schemas such as applications write, drawn from a seed: all that strict mode offers, nested and in combination."""

import random
from typing import Any

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
PATTERNS = (
    "^[a-z]+$",
    r"^\d{3}-\d{4}$",
    "^(red|green|blue)$",
    "^[A-Z][a-z]{0,8}( [A-Z][a-z]{0,8})?$",
    r"^\w+@\w+\.(com|org)$",
    "^ab?c",
    "^[^<>]{1,9}$",
)
NAMES = ("id", "name", "käse", "a b", "total", "when", 'say "hi"', "tags", "x_1", "über", "items", "kind")


class Maker:
    """One schema; `#/$defs/node` is recursive wherever it is used."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._recursive = False

    def schema(self) -> dict[str, Any]:
        root = self._object(3)
        if self._recursive:
            leaf = self._rng.choice([{"type": "null"}, {"type": "integer"}])
            node = {
                "type": "object",
                "properties": {"value": self._scalar(), "next": {"anyOf": [leaf, {"$ref": "#/$defs/node"}]}},
                "required": ["value", "next"],
                "additionalProperties": False,
            }
            root["$defs"] = {"node": node}
        return root

    def _any(self, depth: int) -> dict[str, Any]:
        kinds = [self._scalar, self._scalar, self._literal]
        if depth > 0:
            deeper = depth - 1
            kinds += [
                lambda: self._object(deeper),
                lambda: self._array(deeper),
                lambda: self._array(deeper),
                lambda: self._union(deeper),
                lambda: self._merged(deeper),
                self._reference,
            ]
        made = self._rng.choice(kinds)()
        if self._rng.random() < 0.2:
            made = {**made, "description": "what it is", "title": "It"}
        return made

    def _object(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        if rng.random() < 0.15:
            return self._map(depth)
        names = rng.sample(NAMES, rng.randint(1, 5))
        made: dict[str, Any] = {"type": "object", "properties": {name: self._any(depth) for name in names}}
        made["required"] = [name for name in names if rng.random() < 0.8]
        made["additionalProperties"] = False
        if rng.random() < 0.1:
            made["additionalProperties"] = self._scalar()
        return made

    def _map(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        made: dict[str, Any] = {"type": "object", "additionalProperties": self._any(min(depth, 1))}
        if rng.random() < 0.5:
            made["maxProperties"] = rng.randint(1, 3)
        if rng.random() < 0.3:
            made["minProperties"] = 1
        if rng.random() < 0.3:
            return {
                "type": "object",
                "patternProperties": {"^[a-z]{1,5}$": self._scalar(), "^[0-9]+$": self._any(0)},
                "additionalProperties": False,
            }
        return made

    def _array(self, depth: int) -> dict[str, Any]:
        rng = self._rng
        made: dict[str, Any] = {"type": "array"}
        if rng.random() < 0.2:
            made["prefixItems"] = [self._any(depth) for _ in range(rng.randint(1, 3))]
            made["items"] = rng.choice([False, self._scalar()])
            made["minItems"] = len(made["prefixItems"])
            return made
        made["items"] = self._any(depth)
        if rng.random() < 0.5:
            made["minItems"] = rng.randint(0, 3)
        if rng.random() < 0.7:
            made["maxItems"] = made.get("minItems", 0) + rng.randint(0, 4)
        return made

    def _union(self, depth: int) -> dict[str, Any]:
        if self._rng.random() < 0.4:
            cases = [
                {
                    "type": "object",
                    "properties": {"kind": {"const": kind}, "body": self._any(depth)},
                    "required": ["kind", "body"],
                    "additionalProperties": False,
                }
                for kind in ("one", "two", "three")
            ]
            return {self._rng.choice(["anyOf", "oneOf"]): cases}
        return {"anyOf": [self._any(depth) for _ in range(self._rng.randint(2, 3))]}

    def _merged(self, depth: int) -> dict[str, Any]:
        """Two halves of an object."""
        halves = [
            {"type": "object", "properties": {name: self._any(depth)}, "required": [name]}
            for name in self._rng.sample(NAMES, 2)
        ]
        return {"allOf": halves} if self._rng.random() < 0.5 else {**halves[0], "allOf": [halves[1]]}

    def _reference(self) -> dict[str, Any]:
        self._recursive = True
        return {"$ref": "#/$defs/node"}

    def _literal(self) -> dict[str, Any]:
        values: list[Any] = [
            "one",
            "zwölf",
            'q"uote',
            "line\nbreak",
            7,
            -1.5,
            True,
            False,
            None,
            [1, "x"],
            {"a": 1},
            "",
        ]
        picked = self._rng.sample(values, self._rng.randint(1, 4))
        return {"const": picked[0]} if len(picked) == 1 else {"enum": picked}

    def _scalar(self) -> dict[str, Any]:
        rng = self._rng
        match rng.randrange(6):
            case 0:
                return {"type": rng.choice(["boolean", "null"])}
            case 1:
                return {"type": ["string", "null"], "maxLength": rng.randint(0, 12)}
            case 2 | 3:
                return self._number()
            case _:
                return self._string()

    def _number(self) -> dict[str, Any]:
        rng = self._rng
        made: dict[str, Any] = {"type": rng.choice(["integer", "number"])}
        low: float = rng.choice([-1000, -3, 0, 1, 17])
        if made["type"] == "number" and rng.random() < 0.5:
            low += rng.choice([0.5, 0.25, 0.125])
        if rng.random() < 0.6:
            made[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.6:
            made[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([2, 10, 999, 12345])
        if rng.random() < 0.2:
            made["multipleOf"] = rng.choice([1, 2, 5] if made["type"] == "integer" else [0.5, 0.25, 2])
        return made

    def _string(self) -> dict[str, Any]:
        rng = self._rng
        made: dict[str, Any] = {"type": "string"}
        match rng.randrange(4):
            case 0:
                made["pattern"] = rng.choice(PATTERNS)
            case 1:
                made["format"] = rng.choice(FORMATS)
            case 2:
                made["minLength"] = rng.randint(0, 5)
                made["maxLength"] = made["minLength"] + rng.randint(0, 30)
            case _:
                pass
        return made

"""The JSON Schema Test Suite, where a copy of it is at hand: it is not ours, and no part of this repository.

git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite
JSON_SCHEMA_TEST_SUITE=$PWD/JSON-Schema-Test-Suite make prove
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

VARIABLE = "JSON_SCHEMA_TEST_SUITE"
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
DRAFTS = {
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft7": "http://json-schema.org/draft-07/schema#",
}


class Case(Struct, frozen=True):
    """One schema, and what the suite says of some instances."""

    name: str
    schema: dict[str, Any]
    valid: list[Any]
    invalid: list[Any]
    formats: bool
    """The formats are assertions in it, not annotations."""


def cases() -> Iterator[Case]:
    """All schemas that are objects, of two drafts; of the optional part, the formats that can be enforced."""
    given = os.environ.get(VARIABLE)
    if not given or not (folder := Path(given) / "tests").is_dir():
        pytest.skip(f"{VARIABLE} names no folder with the JSON Schema Test Suite: {suite_help()}")
    for draft, uri in DRAFTS.items():
        required = sorted((folder / draft).glob("*.json"))
        formats = [
            path for path in sorted((folder / draft / "optional" / "format").glob("*.json")) if path.stem in FORMATS
        ]
        for path in [*required, *formats]:
            for group in json.loads(path.read_text(encoding="utf-8")):
                if isinstance(group["schema"], dict):
                    yield _case(f"{draft}/{path.stem}: {group['description']}", uri, group, formats=path in formats)


def suite_help() -> str:
    return "git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite, and set it to that folder"


def _case(name: str, uri: str, group: dict[str, Any], *, formats: bool) -> Case:
    valid = [test["data"] for test in group["tests"] if test["valid"]]
    invalid = [test["data"] for test in group["tests"] if not test["valid"]]
    return Case(name, {"$schema": uri, **group["schema"]}, valid, invalid, formats)

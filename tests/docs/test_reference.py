"""The reference is complete and says nothing that is not so: settings, errors, metrics, events, columns."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headgate.app.config import schema
from headgate.core import errors
from headgate.storage.sql import tables_ledger as tables
from headgate.telemetry import names
from headgate.telemetry.metrics import Metrics

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


def rows(name: str) -> list[list[str]]:
    """The cells of every row of every table, the heads left out."""
    lines = [line for line in page(name).splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def settings(name: str, prefix: str, root: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every setting's path with its default, as the page writes them."""
    section = root["$defs"][name]
    for field, shape in section["properties"].items():
        path = prefix + field
        inner = [part["$ref"] for part in (shape, *shape.get("anyOf", [])) if "$ref" in part]
        items = shape.get("items", {}).get("$ref")
        if inner or items:
            below = (inner[0] if inner else items).rsplit("/", 1)[-1]
            yield from settings(below, f"{path}." if inner else f"{path}[].", root)
        elif field in section.get("required", []):
            yield path, "required"
        else:
            default = shape.get("default")
            yield path, "-" if default is None else f"`{json.dumps(default)}`"


def test_every_setting_is_there_with_its_default_and_none_that_is_not() -> None:
    root = schema()
    documented = {cells[0].strip("`"): cells[2] for cells in rows("configuration") if len(cells) == 4}
    documented.pop("setting")
    assert documented == dict(settings("Config", "", root))


def test_every_setting_says_what_it_means() -> None:
    meanings = [cells[3] for cells in rows("configuration") if len(cells) == 4]
    assert all(len(meaning) > 5 for meaning in meanings if meaning != "meaning")


def kinds(base: type[errors.HeadgateError]) -> Iterator[type[errors.HeadgateError]]:
    for kind in base.__subclasses__():
        if kind.__module__ != errors.__name__:
            continue
        if not kind.__subclasses__():
            yield kind
        yield from kinds(kind)


def test_every_error_is_there_with_status_type_fault_and_code() -> None:
    documented = {cells[0].strip("`"): cells[1:] for cells in rows("errors")}
    documented.pop("class")
    expected = {kind.__name__: kind for kind in kinds(errors.HeadgateError)}
    assert set(documented) == set(expected)
    for name, (status, type_, codes, fault, retry) in documented.items():
        kind = expected[name]
        assert (int(status), type_.strip("`"), fault) == (kind.status, kind.type, kind.fault)
        assert kind.code is None or f"`{kind.code}`" in codes
        assert (retry == "no") is not kind.retryable


def test_every_code_that_the_rooms_raise_is_in_the_errors_page() -> None:
    source = Path(__file__).parents[2] / "src" / "headgate" / "pipeline"
    raised = {code for path in source.glob("*.py") for code in re.findall(r'code="([a-z_]+)"', path.read_text())}
    assert [code for code in sorted(raised) if f"`{code}`" not in page("errors")] == []


def test_every_metric_is_there_and_none_that_is_not() -> None:
    constants = {value for name, value in vars(names).items() if name.isupper() and value.startswith("headgate_")}
    documented = {cells[0].strip("`") for cells in rows("metrics") if cells[0].startswith("`headgate_")}
    assert {name.removesuffix("_total") for name in documented} == constants
    for family in Metrics().registry.collect():
        wire = f"{family.name}_total" if family.type == "counter" else family.name
        assert wire in documented


def test_every_log_event_is_there_and_none_that_is_not() -> None:
    constants = {value for name, value in vars(names).items() if name.isupper() and not value.startswith("headgate_")}
    below = page("metrics").partition("## Log events")[2]
    documented = {
        name
        for line in below.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`([a-z_.]+)`", line.split("|")[1])
    }
    assert documented == constants


def test_every_column_of_the_ledger_is_there_and_none_that_is_not() -> None:
    documented = {name for cells in rows("ledger") for name in re.findall(r"`([a-z_]+)`", cells[0])}
    assert documented == {column.name for column in tables.ledger.columns}


def test_every_header_that_we_write_is_there() -> None:
    source = Path(__file__).parents[2] / "src" / "headgate"
    written = set()
    for path in [*(source / "pipeline").glob("*.py"), *(source / "api").rglob("*.py")]:
        written |= set(re.findall(r'\(b"(x-[a-z-]+)",', path.read_text()))
    written -= {"x-accel-buffering", "x-api-key"}
    assert [name for name in sorted(written) if f"`{name}" not in page("headers")] == []

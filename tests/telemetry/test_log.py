"""Log lines: one JSON object each, bounded, unforgeable, without secrets, and never in the way of a call."""

import json
import subprocess
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headgate.telemetry.log import FIELD_LIMIT, Log
from tests.clock import VirtualClock


def line(level: str = "debug", name: str = "test", **fields: Any) -> dict[str, Any]:
    lines: list[str] = []
    Log(VirtualClock(), "debug", lines.append).event(name, "info", **fields)
    assert len(lines) == 1
    assert lines[0].endswith("\n")
    found: dict[str, Any] = json.loads(lines[0])
    return found


def test_a_line_tells_what_when_and_how_bad_first() -> None:
    assert list(line(b=1, a=None)) == ["event", "level", "at", "b"]


def test_lines_below_the_level_are_not_written() -> None:
    lines: list[str] = []
    log = Log(VirtualClock(), "warning", lines.append)
    log.event("quiet")
    log.event("loud", "error")
    log.level = "info"
    log.event("now")
    assert [json.loads(text)["event"] for text in lines] == ["loud", "now"]


def test_secrets_by_name_and_floods_by_length_are_cut() -> None:
    found = line(authorization="Bearer x", api_key="y", password="z", error="e" * 100_000)
    assert {found["authorization"], found["api_key"], found["password"]} == {"[secret]"}
    assert len(found["error"]) == FIELD_LIMIT + 1


@given(st.text(st.characters(codec=None, exclude_categories=[]), max_size=50))
def test_no_text_can_forge_a_line_or_stop_one(text: str) -> None:
    lines: list[str] = []
    Log(VirtualClock(), "debug", lines.append).event("test", field=text)
    assert len("".join(lines).splitlines()) == 1 or "\x85" in text or "\u2028" in text or "\u2029" in text
    assert lines[0].count("\n") == 1
    json.loads(lines[0])


def test_what_json_does_not_know_is_written_as_text() -> None:
    assert line(where=ValueError("odd"))["where"] == "odd"


def test_a_reader_who_has_gone_fails_nothing() -> None:
    program = (
        "import os\nfrom headgate.core.clock import SystemClock\nfrom headgate.telemetry.log import Log\n"
        "r, w = os.pipe(); os.close(r); os.dup2(w, 2)\n"
        "log = Log(SystemClock())\n[log.event('lost', n=n) for n in range(1000)]\nprint('alive', flush=True)\n"
        "os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.stdout == "alive\n", done.stderr

"""Structured logs: one JSON object a line, event first, bounded in size; secrets and prompts have no field here."""

import contextlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from headgate.core.clock import Clock

Level = Literal["debug", "info", "warning", "error"]
_RANK: dict[Level, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
FIELD_LIMIT = 8_192
"""Characters kept of one text field: a traceback fits, a prompt that slipped in does not flood the disk."""
_DECEPTIVE = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What JSON lets stand and a terminal obeys, or a reader of lines takes for a line's end."""
_SECRET_FIELDS = frozenset({"authorization", "api_key", "key", "credential", "secret", "password", "cookie"})


class Log:
    """Writes events at or above `level`. Encoding escapes control characters, so no value can forge a line."""

    def __init__(self, clock: Clock, level: Level = "info", write: Callable[[str], object] | None = None) -> None:
        self._clock = clock
        self.level: Level = level
        self._write = write or _to_stderr
        self._encode = msgspec.json.Encoder(enc_hook=str).encode

    def event(self, name: str, level: Level = "info", **fields: Any) -> None:
        if _RANK[level] < _RANK[self.level]:
            return
        line: dict[str, Any] = {"event": name, "level": level, "at": round(self._clock.now(), 3)}
        for field, value in fields.items():
            if value is None:
                continue
            if field in _SECRET_FIELDS:
                value = "[secret]"
            elif isinstance(value, str) and len(value) > FIELD_LIMIT:
                value = value[:FIELD_LIMIT] + "…"
            line[field] = value
        try:
            text = _plain(self._encode(line))
        except UnicodeEncodeError:  # a lone surrogate, as in a file name that is no UTF-8
            text = json.dumps(line, default=str)
        self._write(text + "\n")


def _plain(line: bytes) -> str:
    if line.isascii() and b"\x7f" not in line:
        return line.decode()
    return _DECEPTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", line.decode())


def _to_stderr(line: str) -> None:
    """Whoever reads the log may be gone or full: that fails no call."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(line)

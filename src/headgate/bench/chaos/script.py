"""An answer as it will be written: status, headers, and the events of a stream or one body."""

from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import msgspec

from headgate.bench.chaos import anthropic, openai
from headgate.bench.chaos.answer import Answer
from headgate.bench.chaos.asked import Asked

JSON = "application/json"
SSE = "text/event-stream"
_PIECE = 16
"""Bytes of a body that count as one event, where a fault comes after so many."""
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus} | {529: b"Overloaded"}


@dataclass(frozen=True, slots=True)
class Script:
    """`events` of a stream, each with its blank line; None where there is `body` alone."""

    events: tuple[bytes, ...] | None
    body: bytes = b""
    status: int = 200
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    dialect: str = "chat"
    model: str = ""
    junk: bytes = b""
    """Bytes behind the answer's announced end."""
    close_framed: bool = False
    """The body ends with the connection: neither length nor chunks."""
    answer: Answer | None = field(default=None, compare=False)

    @property
    def anthropic(self) -> bool:
        return self.dialect == "anthropic"

    def pieces(self) -> tuple[bytes, ...]:
        """The events, or the body in slices of 16 bytes."""
        if self.events is not None:
            return self.events
        return tuple(self.body[place : place + _PIECE] for place in range(0, len(self.body), _PIECE))

    def head(self, *more: tuple[str, str]) -> bytes:
        """The answer's head, as HTTP/1.1."""
        lines = [b"HTTP/1.1 %d %b" % (self.status, _REASONS.get(self.status, b"Status"))]
        lines.append(b"content-type: " + self.kind.encode("latin-1"))
        lines += [f"{name}: {value}".encode("latin-1") for name, value in (*self.headers, *more)]
        if self.close_framed:
            lines.append(b"connection: close")
        elif self.events is not None:
            lines.append(b"transfer-encoding: chunked")
        else:
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def framed(self, data: bytes) -> bytes:
        """A piece of the body as it stands on the wire."""
        if self.events is None or self.close_framed:
            return data
        return b"%x\r\n%b\r\n" % (len(data), data)

    def end(self) -> bytes:
        chunked = self.events is not None and not self.close_framed
        return (b"0\r\n\r\n" if chunked else b"") + self.junk

    def wire(self) -> bytes:
        """The whole answer as it stands on the wire."""
        if self.events is None:
            return self.head() + self.body + self.end()
        return b"".join([self.head(), *map(self.framed, self.events), self.end()])

    def altered(self, **changes: Any) -> "Script":
        return replace(self, **changes)


def honest(answer: Answer, asked: Asked, *, close_framed: bool = False) -> Script:
    """What a server without faults writes."""
    common: dict[str, Any] = {"dialect": asked.dialect, "model": asked.model, "close_framed": close_framed}
    if asked.stream:
        made = anthropic.events(answer) if asked.dialect == "anthropic" else openai.events(answer, asked)
        return Script(tuple(made), kind=SSE, headers=(("cache-control", "no-cache"),), answer=answer, **common)
    whole = anthropic.whole(answer) if asked.dialect == "anthropic" else openai.whole(answer, asked)
    return Script(None, msgspec.json.encode(whole), answer=answer, **common)


def plain(value: Any, status: int = 200) -> Script:
    """A JSON body."""
    return Script(None, msgspec.json.encode(value), status)


def refusal(message: str, status: int, dialect: str, *, kind: str = "", code: str | None = None) -> Script:
    """An error as the dialect words it."""
    kind = kind or "invalid_request_error"
    if dialect == "anthropic":
        body = anthropic.error(message, kind)
    else:
        body = openai.error(message, kind, code, "messages" if status == 400 else None)
    return Script(None, body, status, dialect=dialect)

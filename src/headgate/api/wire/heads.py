"""What a call takes from its headers: who asks, how long it may take, whether it is a retry."""

import math
import re

from msgspec import Struct

from headgate.api.http import Request
from headgate.core.errors import BadCall
from headgate.core.policy import PRIORITIES, Priority

MAX_IDEMPOTENCY_KEY = 255
MAX_SESSION = 128
MAX_CREDENTIAL = 8 * 1024
MAX_RETRY_COUNT = 1000
MAX_CLIENT_REQUEST_ID = 128
STREAM_ID = re.compile(r"req_[0-9a-z]{26}")
_EVENT_ID = re.compile(rf"({STREAM_ID.pattern}):([0-9]{{1,9}})")


class EventId(Struct, frozen=True):
    """A frame of a stream: the id of the call that made the stream, and the frame's number, from 1."""

    stream: str
    number: int


def _text(request: Request, name: bytes) -> str | None:
    value = request.header(name)
    return None if value is None else value.decode("latin-1").strip()


def credential(request: Request) -> str | None:
    """The API key from `Authorization: Bearer`, `x-api-key` or `api-key`. Raises `BadCall` where two differ."""
    found: str | None = None
    bearer = _text(request, b"authorization")
    if bearer is not None:
        scheme, _, token = bearer.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            found = token.strip()
    for name in (b"x-api-key", b"api-key"):
        value = _text(request, name)
        if value:
            if found is not None and found != value:
                raise BadCall("Two headers carry different API keys; send one.", code="ambiguous_credentials")
            found = value
    if found is not None and len(found) > MAX_CREDENTIAL:
        raise BadCall("The API key is too long.", code="invalid_credentials")
    return found


def retry_count(request: Request) -> int:
    """Which retry of the client's SDK this is; 0 where it does not say so properly."""
    value = request.header(b"x-stainless-retry-count")
    if value is None or not value.isdigit() or len(value) > 4:
        return 0
    return min(int(value), MAX_RETRY_COUNT)


def idempotency_key(request: Request) -> str | None:
    """Raises `BadCall` for an empty one too: its sender relies on a key that is not there."""
    value = _text(request, b"idempotency-key")
    if value is None:
        return None
    if not value or len(value) > MAX_IDEMPOTENCY_KEY or not value.isascii() or not value.isprintable():
        raise BadCall(
            f"An Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters.",
            code="invalid_idempotency_key",
        )
    return value


def session(request: Request) -> str | None:
    """What the caller counts as one conversation or run. Raises `BadCall` for one that no log or ledger should hold."""
    value = _text(request, b"x-headgate-session")
    if not value:
        return None
    if len(value) > MAX_SESSION or not value.isascii() or not value.isprintable():
        raise BadCall(
            f"x-headgate-session has at most {MAX_SESSION} printable ASCII characters.", code="invalid_session"
        )
    return value


def resumable(request: Request) -> bool | None:
    """Whether the caller wants a stream with ids; None where he does not say. Raises `BadCall`."""
    value = _text(request, b"x-headgate-resumable")
    if not value:
        return None
    if value.lower() not in {"true", "false"}:
        raise BadCall("x-headgate-resumable is true or false.", code="invalid_resumable")
    return value.lower() == "true"


def last_event_id(request: Request) -> EventId | None:
    """The frame after which the caller wants to go on. Raises `BadCall` for one that no stream of ours can have."""
    value = _text(request, b"last-event-id")
    if not value:
        return None
    found = _EVENT_ID.fullmatch(value)
    if found is None:
        raise BadCall(
            "Last-Event-ID is the last id line you have of the stream to resume, such as "
            "req_01k3zq8v6h2w7d9n4c5b1x0m2t:17. Leave it out to begin a new answer.",
            code="invalid_last_event_id",
        )
    return EventId(found[1], int(found[2]))


def priority(request: Request) -> Priority | None:
    """The class to wait in where there is a queue. Raises `BadCall` for one that is not known."""
    value = _text(request, b"x-headgate-priority")
    if not value:
        return None
    for known in PRIORITIES:
        if known == value.lower():
            return known
    raise BadCall(f"x-headgate-priority is one of {', '.join(PRIORITIES)}.", code="invalid_priority")


def timeout_s(request: Request, default: float, most: float) -> float:
    """Seconds the caller allows, from `x-headgate-timeout-s` or `x-request-timeout`, never above `most`."""
    for name in (b"x-headgate-timeout-s", b"x-request-timeout"):
        value = _text(request, name)
        if value is None:
            continue
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds) or seconds <= 0:
            raise BadCall(f"{name.decode()} must be a positive number of seconds.", code="invalid_timeout")
        return min(seconds, most)
    return min(default, most)


def client_request_id(request: Request) -> str | None:
    """The client's own name for this request, for logs: printable ASCII only, cut to length."""
    value = _text(request, b"x-client-request-id")
    if not value:
        return None
    kept = "".join(char for char in value[:MAX_CLIENT_REQUEST_ID] if char.isascii() and char.isprintable())
    return kept or None

"""What a call takes from its headers: who asks, how long it may take, whether it is a retry."""

import math

from headgate.api.http import Request
from headgate.core.errors import BadCall
from headgate.core.policy import PRIORITIES, Priority

MAX_IDEMPOTENCY_KEY = 255
MAX_SESSION = 128
MAX_CREDENTIAL = 8 * 1024
MAX_RETRY_COUNT = 1000
MAX_CLIENT_REQUEST_ID = 128


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

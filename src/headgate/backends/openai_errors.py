"""What an upstream's refusal means to our caller: whose fault it is, and when trying again can help."""

import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import Struct

from headgate.core.errors import (
    BadCall,
    Failed,
    HeadgateError,
    NotFound,
    Overloaded,
    TooLarge,
    Upstream,
    UpstreamTimeout,
)

RETRY_AFTER_MAX_S = 86_400.0
MESSAGE_CHARS_MAX = 500

Header = Callable[[bytes], bytes | None]
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


class Complaint(Struct, frozen=True):
    """The readable part of an upstream's error body."""

    message: str = ""
    code: str | None = None
    param: str | None = None


def read_complaint(body: bytes, secret: str = "") -> Complaint:
    """Understands OpenAI's shape, a bare text under `error` or `message`, and FastAPI's `detail`; else it is empty."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Complaint()
    if isinstance(found, list) and found:
        found = found[0]  # Google wraps its errors in a list
    if not isinstance(found, dict):
        return Complaint()
    error = found.get("error", found)
    if isinstance(error, str):
        return Complaint(clean(error, secret))
    if not isinstance(error, dict):
        return Complaint()
    message = error.get("message") or error.get("detail") or ""
    return Complaint(
        clean(message if isinstance(message, str) else msgspec.json.encode(message).decode(), secret),
        _short(error.get("code"), secret),
        _short(error.get("param"), secret),
    )


def clean(text: str, secret: str = "") -> str:
    """One printable line of bounded length, without the key in it."""
    if secret:
        text = text.replace(secret, "***")
    line = "".join(character if character.isprintable() else " " for character in text[: 4 * MESSAGE_CHARS_MAX])
    line = " ".join(line.split())
    return line if len(line) <= MESSAGE_CHARS_MAX else line[: MESSAGE_CHARS_MAX - 1] + "…"


def _short(value: Any, secret: str) -> str | None:
    return clean(value, secret)[:100] if isinstance(value, str) and value else None


def retry_after(header: Header, now: float) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds or a date, RFC 9110), a day at most; odd values: None."""
    milliseconds = _number(header(b"retry-after-ms"))
    if milliseconds is not None:
        return min(milliseconds / 1000, RETRY_AFTER_MAX_S)
    value = header(b"retry-after")
    seconds = _number(value)
    if seconds is None and value is not None:
        try:
            seconds = parsedate_to_datetime(value.decode("ascii")).timestamp() - now
        except (ValueError, OverflowError, UnicodeDecodeError):
            return None
        if seconds <= 0:
            return None
    return None if seconds is None else min(seconds, RETRY_AFTER_MAX_S)


def _number(value: bytes | None) -> float | None:
    try:
        number = float(value) if value is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def error_for(status: int, header: Header, body: bytes, now: float, secret: str = "") -> HeadgateError:
    """The error to raise for a status other than 2xx. `now` is Unix seconds; `secret` is kept out of every text."""
    complaint = read_complaint(body, secret)
    if status in {400, 404, 413, 422}:
        return _callers_fault(status, complaint)
    wait = retry_after(header, now)
    return _our_fault(status, complaint, wait)


def _callers_fault(status: int, complaint: Complaint) -> HeadgateError:
    message = complaint.message or f"the model server refused the request ({status})"
    if status == 404:
        return NotFound(message, code=complaint.code or "model_not_found", param=complaint.param)
    if status == 413:
        return TooLarge(message, code=complaint.code, param=complaint.param)
    return BadCall(message, code=complaint.code, param=complaint.param, status=status)


def _our_fault(status: int, complaint: Complaint, wait: float | None) -> Failed:
    if status in {401, 403}:  # our key, not the caller's: nothing of the answer is shown
        return Upstream("the gateway's own access to the model server was refused", code="upstream_auth")
    if status == 402 or (status == 429 and complaint.code in _QUOTA):
        return Overloaded("the gateway's own quota at the model server is spent", code="upstream_quota")
    if status == 429:
        error = Overloaded(
            "the model server is over its rate limit", status=429, code="upstream_rate_limited", retry_after=wait
        )
        error.type = "rate_limit_error"
        return error
    if status in {408, 504}:
        return UpstreamTimeout(f"the model server took too long by its own count ({status})", retry_after=wait)
    if status in {503, 529}:
        return Overloaded("the model server has no capacity now", code="upstream_overloaded", retry_after=wait)
    if 300 <= status < 400:
        return Upstream("the model server answered with a redirect, which is not followed", code="upstream_redirect")
    return Upstream(f"the model server failed ({status})", retry_after=wait)

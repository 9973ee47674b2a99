"""What an upstream's refusal means to our caller: whose fault it is, and when trying again can help."""

import math
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import Struct

from headgate.backends.refusal_words import Reason, reason_in
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
from headgate.core.faults import CONTENT_POLICY, CONTEXT_LENGTH

RETRY_AFTER_MAX_S = 86_400.0
MESSAGE_CHARS_MAX = 500

Header = Callable[[bytes], bytes | None]
_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error"})
_CODES: dict[Reason, str] = {"context_length": CONTEXT_LENGTH, "content_policy": CONTENT_POLICY}
_SAYS_WHY = frozenset({400, 403, 404, 413, 422, 451, 500})
"""Under these a prompt that is too long or not let through is refused: 500 by Ollama, 403 by OpenRouter."""
_KINDS = {
    "overloaded_error": 529,
    "overloaded": 503,
    "service_unavailable": 503,
    "server_overloaded": 503,
    "unavailable": 503,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "resource_exhausted": 429,
    "tokens": 429,
    "requests": 429,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
} | dict.fromkeys(_QUOTA, 402)
"""The status that an error would have had which comes inside an answer that claimed success, by its code or type."""
_OF_A_KIND = frozenset({401, 402, 403, 408, 429, 503, 504, 529})
"""What is told by more than "it failed"."""


class Complaint(Struct, frozen=True):
    """The readable part of an upstream's error body."""

    message: str = ""
    code: str | None = None
    param: str | None = None
    codes: frozenset[str] = frozenset()
    """Its code, its type and what lies deeper."""
    status: int | None = None
    """A status in its own words."""

    @property
    def reason(self) -> Reason | None:
        return reason_in(self.codes, self.message)


def read_complaint(body: bytes, secret: str = "") -> Complaint:
    """Understands OpenAI's shape, a bare text under `error` or `message`, and FastAPI's `detail`; else it is empty."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Complaint()
    return _complaint(found, secret)


def _complaint(found: Any, secret: str) -> Complaint:
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
        _codes(error),
        next((value for value in (error.get("code"), error.get("status")) if type(value) is int), None),
    )


def _codes(error: dict[str, Any]) -> frozenset[str]:
    """Azure says more in an error within the error, and Google in `status`."""
    inner = error.get("innererror")
    values = [error.get(name) for name in ("code", "type", "status")]
    values += [inner.get("code")] if isinstance(inner, dict) else []
    return frozenset(value for value in values if isinstance(value, str))


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
    reason = complaint.reason if status in _SAYS_WHY else None
    if status == 400 and body.lstrip()[:1] == b"<":  # whoever stands before the model server; it never saw the request
        return Upstream("something before the model server refused the request (400)")
    if status in {400, 404, 413, 422}:
        return _callers_fault(status, complaint, reason)
    if reason is not None:
        return _refused(reason, "" if status == 403 else complaint.message)
    wait = retry_after(header, now)
    return _our_fault(status, complaint, wait)


def error_inside(found: Any, secret: str = "") -> HeadgateError:
    """The error for an error object inside an answer that claimed success, whole or midway in a stream."""
    complaint = _complaint(found, secret)
    if complaint.reason is not None:
        return _refused(complaint.reason, complaint.message)
    status = next(
        (_KINDS[code.lower()] for code in sorted(complaint.codes) if code.lower() in _KINDS), complaint.status
    )
    if status in _OF_A_KIND:
        return _our_fault(status, complaint, None)
    message = ": " + complaint.message if complaint.message else ""
    return Upstream("the model server reported an error" + message)


def _refused(reason: Reason, message: str) -> BadCall:
    if not message:
        why = "the prompt is too long for it" if reason == "context_length" else "its content policy forbids it"
        message = f"the model server refused the request: {why}"
    return BadCall(message, code=_CODES[reason])


def _callers_fault(status: int, complaint: Complaint, reason: Reason | None) -> HeadgateError:
    code = complaint.code if reason is None else _CODES[reason]
    message = complaint.message or f"the model server refused the request ({status})"
    if status == 404:
        return NotFound(message, code=code or "model_not_found", param=complaint.param)
    if status == 413:
        return TooLarge(message, code=code, param=complaint.param)
    return BadCall(message, code=code, param=complaint.param, status=status)


def _our_fault(status: int, complaint: Complaint, wait: float | None) -> Failed:
    if status in {401, 403}:  # our key, not the caller's: nothing of the answer is shown
        return Upstream("the gateway's own access to the model server was refused", code="upstream_auth")
    if status == 402 or (status == 429 and complaint.codes & _QUOTA):
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

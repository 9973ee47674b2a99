"""Every error, in OpenAI's and in Anthropic's shape: as a whole response, and as an event after the first byte.

OpenAI's clients retry 408, 409, 429 and all of 5xx unless `x-should-retry` says otherwise (openai-python,
`_base_client.py`); so every such error that trying again cannot mend carries `x-should-retry: false`.
"""

import math
from http import HTTPStatus

import msgspec

from headgate.core.errors import HeadgateError, OverBudget, Overloaded, TooLarge
from headgate.core.reply import Header

_encode = msgspec.json.encode
_RETRIED_BY_CLIENTS = frozenset({408, 409, 429})
_FINAL = frozenset({"upstream_auth", "upstream_quota"})
"""Another model server may do better, and was tried; the same call a moment later will not."""


def _encoded(value: object) -> bytes:
    """JSON; text that is not valid Unicode (a lone surrogate) is replaced rather than refused."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_mended(value))


def _mended(value: object) -> object:
    if isinstance(value, dict):
        return {key: _mended(item) for key, item in value.items()}
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def openai_body(error: HeadgateError) -> bytes:
    """The `error` object with all four fields."""
    return _encoded({"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}})


def openai_frame(error: HeadgateError) -> bytes:
    """One data frame. The stream ends after it, without `[DONE]`."""
    return b"data: " + openai_body(error) + b"\n\n"


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_status(error: HeadgateError) -> int:
    if isinstance(error, OverBudget):
        return 402
    if isinstance(error, Overloaded):
        return 529
    return 413 if isinstance(error, TooLarge) else error.status


def anthropic_body(error: HeadgateError, request_id: str) -> bytes:
    status = anthropic_status(error)
    kind = _ANTHROPIC_TYPES.get(status) or ("invalid_request_error" if status < 500 else "api_error")
    return _encoded({"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id})


def anthropic_frame(error: HeadgateError, request_id: str) -> bytes:
    return b"event: error\ndata: " + anthropic_body(error, request_id) + b"\n\n"


def error_headers(error: HeadgateError) -> list[Header]:
    """When to try again, and whether; and, with a 401, how to say who asks (RFC 9110, section 11.6.1)."""
    headers: list[Header] = list(error.headers)
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
        headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(error.retry_after * 1000))))
    final = not error.retryable or error.code in _FINAL
    if final and (error.status in _RETRIED_BY_CLIENTS or error.status >= 500):
        headers.append((b"x-should-retry", b"false"))
    return headers


def whole_response(error: HeadgateError, headers: list[Header]) -> bytes:
    """A complete HTTP/1.1 response, for refusals that no handler sees. The connection closes after it."""
    body = openai_body(error)
    try:
        phrase = HTTPStatus(error.status).phrase
    except ValueError:
        phrase = ""
    lines = [b"HTTP/1.1 %d %s" % (error.status, phrase.encode())]
    lines += [name + b": " + value for name, value in headers]
    lines += [b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close", b"", body]
    return b"\r\n".join(lines)

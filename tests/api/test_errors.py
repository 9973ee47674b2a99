"""Every error class, in both dialects, before and after the first byte."""

import json
from collections.abc import Iterator

import pytest

from headgate.api.errors import (
    anthropic_body,
    anthropic_frame,
    anthropic_status,
    error_headers,
    openai_body,
    openai_frame,
    whole_response,
)
from headgate.core import errors
from headgate.core.errors import HeadgateError


def classes(base: type[HeadgateError]) -> Iterator[type[HeadgateError]]:
    yield base
    for below in base.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from classes(below)


EVERY = list(classes(HeadgateError))
ANTHROPIC = {
    "Refused": (400, "invalid_request_error"),
    "BadCall": (400, "invalid_request_error"),
    "TooLarge": (413, "request_too_large"),
    "Unauthorized": (401, "authentication_error"),
    "Forbidden": (403, "permission_error"),
    "NotFound": (404, "not_found_error"),
    "Conflict": (409, "invalid_request_error"),
    "OverLimit": (429, "rate_limit_error"),
    "OverBudget": (402, "billing_error"),
    "Blocked": (400, "invalid_request_error"),
    "HeadgateError": (500, "api_error"),
    "Failed": (500, "api_error"),
    "Upstream": (502, "api_error"),
    "UpstreamTimeout": (504, "timeout_error"),
    "Truncated": (502, "api_error"),
    "Overloaded": (529, "overloaded_error"),
    "Bug": (500, "api_error"),
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_openais_four_fields(kind: type[HeadgateError]) -> None:
    error = kind('What "happened".\n', param="messages[0]")
    body = json.loads(openai_body(error))
    assert body == {
        "error": {"message": 'What "happened".\n', "type": kind.type, "param": "messages[0]", "code": kind.code}
    }
    frame = openai_frame(error)
    assert frame == b"data: " + openai_body(error) + b"\n\n"
    assert frame.count(b"\n") == 2


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_anthropics_shape(kind: type[HeadgateError]) -> None:
    error = kind("What happened.")
    status, name = ANTHROPIC[kind.__name__]
    assert anthropic_status(error) == status
    assert json.loads(anthropic_body(error, "req_1")) == {
        "type": "error",
        "error": {"type": name, "message": "What happened."},
        "request_id": "req_1",
    }
    assert anthropic_frame(error, "req_1").startswith(b"event: error\ndata: {")


@pytest.mark.parametrize("kind", EVERY)
def test_clients_retry_only_what_can_succeed(kind: type[HeadgateError]) -> None:
    error = kind("x")
    headers = dict(error_headers(error))
    retried_by_default = error.status in {408, 409, 429} or error.status >= 500
    assert (headers.get(b"x-should-retry") == b"false") == (retried_by_default and not error.retryable)


@pytest.mark.parametrize("code", ["upstream_auth", "upstream_quota"])
def test_what_only_the_operator_can_mend_is_not_retried_by_clients(code: str) -> None:
    assert dict(error_headers(errors.Upstream("x", code=code)))[b"x-should-retry"] == b"false"


def test_a_401_says_how_to_say_who_asks() -> None:
    assert (b"www-authenticate", b"Bearer") in error_headers(errors.Unauthorized("x"))


def test_a_wait_is_rounded_up_never_down() -> None:
    for seconds, whole, milliseconds in ((0.0001, b"1", b"1"), (1.0, b"1", b"1000"), (1.0001, b"2", b"1001")):
        headers = dict(error_headers(errors.OverLimit("x", retry_after=seconds)))
        assert (headers[b"retry-after"], headers[b"retry-after-ms"]) == (whole, milliseconds)


def test_an_errors_own_headers_are_kept() -> None:
    error = errors.OverLimit("x")
    error.headers = [(b"x-ratelimit-remaining-requests", b"0")]
    assert error_headers(error)[0] == (b"x-ratelimit-remaining-requests", b"0")


def test_text_that_is_not_unicode_is_mended() -> None:
    assert json.loads(openai_body(errors.BadCall("a\ud800b", param="\udfff")))["error"]["message"] == "a?b"


def test_a_whole_response_is_one() -> None:
    error = errors.BadCall("x", status=431)
    head, _, body = whole_response(error, [(b"x-request-id", b"req_1")]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\nx-request-id: req_1\r\n")
    assert b"content-length: %d" % len(body) in head
    assert b"connection: close" in head
    assert whole_response(errors.BadCall("x", status=599), []).startswith(b"HTTP/1.1 599 \r\n")

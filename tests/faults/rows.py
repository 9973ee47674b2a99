"""Every fault of the hostile upstream, and what must become of a call to an upstream that has it and has no help."""

from dataclasses import dataclass
from typing import Any, Literal

Form = Literal["stream", "whole"]
FORMS: tuple[Form, ...] = ("stream", "whole")
At = Literal["upstream", "own", "closed", "https"]
"""Where the fault is: the common hostile upstream; one of its own, for what strikes all its connections; a port that
nobody listens on; `https` to a server without TLS."""
ANSWER = "answer"
"""Not a failure: the caller gets the answer, whole and right."""


@dataclass(frozen=True)
class Row:
    """One fault. `stream` and `whole` are what a caller is told where nothing can help: `ANSWER`, or a code."""

    order: str
    what: str
    stream: str
    whole: str
    at: At = "upstream"
    final: bool = False
    """Another replica would say the same: it is not asked."""
    tokens: int | None = None
    finish: str = "stop"
    kind: Literal["text", "refusal", "tools", "twice", "endless"] = "text"
    deadline_s: float = 30.0
    total_s: tuple[float, float] = (4.0, 4.0)
    """What one attempt may take: as a stream, and whole."""
    floods: bool = False
    """It sends as much as it can: not many of them at once."""

    def expected(self, form: Form) -> str:
        return self.stream if form == "stream" else self.whole

    @property
    def orders(self) -> str:
        """As the model's name says it."""
        return self.order + (f",tokens={self.tokens}" if self.tokens is not None else "")


def _both(order: str, what: str, code: str, **more: Any) -> Row:
    return Row(order, what, code, code, **more)


_CUT = "upstream_truncated"
_BAD = "upstream_bad_answer"
_GONE = "upstream_disconnected"
_FIRST = "upstream_first_token_timeout"
_STALLED = "upstream_stalled"
_NO_HTTP = "upstream_protocol"
_BUSY = "upstream_rate_limited"
_FULL = "upstream_overloaded"

CONNECTION = (
    _both("", "nobody listens", "upstream_unreachable", at="closed"),
    _both("refuse=2.5", "resets, then takes no connection for 2.5 s", "upstream_unreachable", at="own"),
    _both("", "speaks no TLS where `https` is asked", "upstream_tls", at="https"),
    _both("tls=garbage", "bytes that are no HTTP", _NO_HTTP),
    _both("tls=alert", "a TLS alert", _NO_HTTP),
    _both("tls=plain", "400 with a page: plain HTTP sent to an HTTPS port", "upstream_error"),
    _both("tls=silent", "accepts, says nothing", _FIRST),
    _both("reset_reuse", "resets each reused connection", ANSWER),
    _both("reset=0", "resets after the head", _CUT),
    Row("reset=3", "resets (RST) after three events", _CUT, _CUT),
    _both("redirect", "307 to the cloud's metadata address", "upstream_redirect"),
)
TIME = (
    _both("no_head", "never answers", _FIRST),
    _both("slow_head=6", "head after 6 s", _FIRST),
    _both("slow_first=6", "head at once, first byte after 6 s", _FIRST),
    Row("stall=3", "silent after three events", _STALLED, _STALLED),
    Row("stall=0", "silent after the head", _FIRST, _FIRST),
    Row("stall=3,s=0.3", "silent for 0.3 s", ANSWER, ANSWER),
    Row("slow=0.2", "a piece every 5 s", _FIRST, _STALLED),
    _both("slow_drip=0", "byte by byte", ANSWER, tokens=8),
    Row("only_comments", "comments, or white space, for ever", _FIRST, "upstream_timeout"),
)
END = (
    _both("cut=0", "closes after the head", _CUT),
    _both("cut=3", "closes (FIN) after three events", _CUT),
    Row("cut=3,framing=close", "the same, and looks like an end", _CUT, _BAD),
    Row("cut=3,end=1", "the stream's body ends in order, too early", _CUT, _CUT),
    _both("cut_event=3", "closes within an event", _CUT),
    _both("cut_utf8=3", "closes within a character", _CUT),
    Row("no_done", "no `[DONE]`; a body without its last byte", ANSWER, _BAD),
    _both("after_done", "more after the end", ANSWER),
    Row("two_done", "`[DONE]` twice; a body twice", ANSWER, _BAD),
)
REFUSALS = (
    _both("429", "429", _BUSY),
    _both("429,retry_after=fraction", "429, `retry-after: 0.5`", _BUSY),
    _both("429,retry_after=short", "429, `retry-after: 1`", _BUSY),
    _both("429,retry_after=long", "429, `retry-after` of a day", _BUSY),
    _both("429,retry_after=zero", "429, `retry-after: 0`", _BUSY),
    _both("429,retry_after=negative", "429, `retry-after: -5`", _BUSY),
    _both("429,retry_after=odd", "429, a `retry-after` of words", _BUSY),
    _both("429,retry_after=past", "429, `retry-after`: a day in 2001", _BUSY),
    _both("429,retry_after=date", "429, `retry-after`: a day in 2999", _BUSY),
    _both("429,retry_after=huge", "429, `retry-after` of 400 digits", _BUSY),
    _both("429,code=insufficient_quota", "429: our quota there is spent", "upstream_quota"),
    _both("401", "401: our key is refused", "upstream_auth"),
    _both("403", "403: our key may not", "upstream_auth"),
    _both("404", "404: no such model", "model_not_found", final=True),
    _both("status=400", "400", "invalid_request_error", final=True),
    _both("status=422", "422", "invalid_request_error", final=True),
    _both("500", "500", "upstream_error"),
    _both("500,body=html", "500 with a page", "upstream_error"),
    _both("500,body=empty", "500 without a body", "upstream_error"),
    _both("502", "502", "upstream_error"),
    _both("503", "503", _FULL),
    _both("503,retry_after=short", "503, `retry-after: 1`", _FULL),
    _both("529", "529", _FULL),
    *(_both(f"context_length={who}", f"prompt too long, as {who} says it", "context_length_exceeded", final=True)
      for who in ("openai", "anthropic", "vllm", "llamacpp")),
    *(_both(f"content_filter={who}", f"refused by policy, as {who} says it", "content_filter", final=True)
      for who in ("openai", "azure", "anthropic")),
    _both("content_filter_finish", "an answer that policy ends early", ANSWER, final=True, tokens=5,
          finish="content_filter"),
    _both("refusal", "the model declines", ANSWER, final=True, kind="refusal"),
    Row("error_event=0", "an error as first event, or as body, with 200", "upstream_error", "upstream_error"),
    Row("error_event=3", "an error after three events", "upstream_error", "upstream_error"),
    Row("error_event=3,done=1", "an error after three events, then `[DONE]`", "upstream_error", "upstream_error"),
    Row("error_event=3,code=context_length_exceeded", "too long, said within a stream",
        "context_length_exceeded", "context_length_exceeded", final=True),
)  # fmt: skip
SAID = (
    _both("bad_json=3", "an event, or the body, is no JSON", _BAD),
    _both("bad_json=0", "the first event, or the body, is no JSON", _BAD),
    Row("wrong_type", "another content type", _BAD, ANSWER),
    _both("html", "200 with a page", _BAD),
    _both("null=3", "`null` for an event, or the body", _BAD),
    _both("duplicate_events=3", "events twice, choices twice: passed on as words said twice", ANSWER, kind="twice"),
    Row("empty_choices", "events, or a body, without choices", ANSWER, _BAD),
    _both("usage_missing", "no usage", ANSWER),
    *(_both(f"usage_absurd={kind}", f"usage {kind}", ANSWER) for kind in ("negative", "huge", "float", "text", "null")),
    _both("crlf", "lines end in CRLF", ANSWER),
    _both("crlf=cr", "lines end in CR", ANSWER),
    _both("interleaved_tools", "pieces of two tool calls by turns", ANSWER, kind="tools", finish="tool_calls"),
)  # fmt: skip
SIZE = (
    _both("gzip_bomb=64", "64 MB of zeros as gzip", _NO_HTTP, floods=True),
    _both("huge_headers", "a header of a megabyte", _NO_HTTP, floods=True),
    _both("huge_headers=count", "20,000 headers", _NO_HTTP, floods=True),
    Row("huge_event=16", "an event, or a field of a body, of 16 MB", _BAD, ANSWER, floods=True),
    Row(
        "endless",
        "never ends",
        "upstream_timeout",
        "upstream_error",
        kind="endless",
        floods=True,
        total_s=(1.0, 60.0),
        deadline_s=120.0,
    ),
)
GROUPS: tuple[tuple[str, tuple[Row, ...]], ...] = (
    ("The connection", CONNECTION),
    ("Time", TIME),
    ("The end", END),
    ("Refusals", REFUSALS),
    ("What is said", SAID),
    ("Size", SIZE),
)
ROWS: tuple[Row, ...] = tuple(row for _, rows in GROUPS for row in rows)

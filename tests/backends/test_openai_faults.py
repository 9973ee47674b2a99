"""Upstreams that misbehave: each fault ends in the right error, and nothing of it passes for an answer."""

import asyncio
from typing import Any

import pytest

from headgate.backends.http.exchange import HIGH_WATER_BYTES
from headgate.backends.http.pool import PoolSettings
from headgate.backends.openai_answer import check_utf8
from headgate.backends.openai_errors import error_for
from headgate.core.deadline import Timeouts
from headgate.core.errors import (
    BadCall,
    HeadgateError,
    NotFound,
    Overloaded,
    TooLarge,
    Truncated,
    Upstream,
    UpstreamTimeout,
)
from headgate.core.events import Finish
from tests.backends.calls import backend, call, collect, stats, target, until_idle, until_stats
from tests.upstream.exchange import delta

A = b"data: " + delta("one") + b"\n\n"
B = b"data: " + delta("two") + b"\n\n"

BEFORE_THE_HEAD = {
    "reset_before_head": "upstream_disconnected",
    "close_before_head": "upstream_disconnected",
    "cut_head": "upstream_disconnected",
    "no_http": "upstream_protocol",
    "both_framings": "upstream_protocol",
    "continue_forever": "upstream_protocol",
    "huge_header": "upstream_protocol",
    "many_headers": "upstream_protocol",
    "gzip": "upstream_protocol",
}
WHOLE = {
    "cut_body": "upstream_truncated",
    "html": "upstream_bad_answer",
    "empty": "upstream_bad_answer",
    "null": "upstream_bad_answer",
    "list": "upstream_bad_answer",
    "no_choices": "upstream_bad_answer",
    "bad_json": "upstream_bad_answer",
    "bad_utf8_json": "upstream_bad_answer",
    "sse_for_json": "upstream_bad_answer",
    "error_200": "upstream_error",
}
FOR_A_STREAM = {
    "html": "upstream_bad_answer",
    "empty": "upstream_bad_answer",
    "json_for_stream": "upstream_bad_answer",
    "error_200": "upstream_error",
}
IN_THE_STREAM = {
    "reset_in_stream": (A + B, Truncated),
    "cut_in_event": (A, Truncated),
    "cut_in_event_cleanly": (A, Truncated),
    "no_finish": (A + B, Truncated),
    "done_unfinished": (A, Truncated),
    "nothing": (b"", Truncated),
    "only_done": (b"", Upstream),
    "bad_json_event": (A, Upstream),
    "bad_utf8": (A, Upstream),
    "null_event": (A, Upstream),
    "deep_event": (A, Upstream),
    "error_event": (A, Upstream),
    "named_error_event": (A, Upstream),
    "huge_event": (A, Upstream),
    "endless_line": (b"", Upstream),
}


async def refused(base_url: str, model: str, *, stream: bool, **settings: Any) -> HeadgateError:
    up = backend(base_url, **settings)
    with pytest.raises(HeadgateError) as error:
        await up.open(call(model, stream=stream), target(model))
    assert up.counts.active == 0
    await up.aclose()
    await until_stats(base_url, lambda now: now["open"] == 0)
    return error.value


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", BEFORE_THE_HEAD)
def test_a_fault_before_the_head_is_an_upstream_error(server: str, model: str, stream: bool) -> None:
    error = asyncio.run(refused(server, model, stream=stream))
    assert type(error) is Upstream
    assert (error.status, error.code, error.retryable) == (502, BEFORE_THE_HEAD[model], True)


@pytest.mark.parametrize("model", WHOLE)
def test_what_is_no_whole_answer_is_not_passed_on(server: str, model: str) -> None:
    error = asyncio.run(refused(server, model, stream=False))
    assert (error.status, error.code) == (502, WHOLE[model])


@pytest.mark.parametrize("model", FOR_A_STREAM)
def test_what_is_no_stream_is_refused_before_its_first_byte(server: str, model: str) -> None:
    error = asyncio.run(refused(server, model, stream=True))
    assert (error.status, error.code) == (502, FOR_A_STREAM[model])


def test_an_endless_answer_is_cut_at_the_limit(server: str) -> None:
    error = asyncio.run(refused(server, "endless_json", stream=False, answer_bytes_max=1_000_000))
    assert "larger than 1000000 bytes" in error.message


@pytest.mark.parametrize("model", IN_THE_STREAM)
def test_a_fault_in_the_stream_follows_whole_frames_and_is_named(server: str, model: str) -> None:
    async def main() -> None:
        up = backend(server)
        passed, kind = IN_THE_STREAM[model]
        data, events, error = await collect(await up.open(call(model, stream=True), target(model)))
        assert data == passed
        assert type(error) is kind
        assert events == []  # no finish, no usage: nothing that looks like an end
        await until_idle(up)
        await up.aclose()
        await until_stats(server, lambda now: now["open"] == 0)

    asyncio.run(main())


def test_an_error_event_tells_its_message(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        _, _, error = await collect(await up.open(call("error_event", stream=True), target("error_event")))
        assert error is not None
        assert "out of memory" in error.message
        await up.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "kind", "shown"),
    [(400, BadCall, 400), (422, BadCall, 422), (404, NotFound, 404), (413, TooLarge, 413)],
)
def test_what_the_caller_did_wrong_is_told_in_the_upstream_s_words(
    server: str, status: int, kind: type[HeadgateError], shown: int
) -> None:
    error = asyncio.run(refused(server, f"status:code={status},why=context_length_exceeded", stream=False))
    assert type(error) is kind
    assert (error.status, error.code, error.param) == (shown, "context_length_exceeded", "messages")
    assert error.message == f"upstream says {status}"
    assert (error.fault, error.retryable) == ("caller", False)


@pytest.mark.parametrize(
    ("status", "kind", "shown", "code"),
    [
        (401, Upstream, 502, "upstream_auth"),
        (403, Upstream, 502, "upstream_auth"),
        (402, Overloaded, 503, "upstream_quota"),
        (408, UpstreamTimeout, 504, "upstream_timeout"),
        (429, Overloaded, 429, "upstream_rate_limited"),
        (418, Upstream, 502, "upstream_error"),
        (500, Upstream, 502, "upstream_error"),
        (502, Upstream, 502, "upstream_error"),
        (503, Overloaded, 503, "upstream_overloaded"),
        (529, Overloaded, 503, "upstream_overloaded"),
        (302, Upstream, 502, "upstream_redirect"),
    ],
)
def test_what_is_ours_or_the_upstream_s_is_not_shown_as_the_caller_s(
    server: str, status: int, kind: type[HeadgateError], shown: int, code: str
) -> None:
    error = asyncio.run(refused(server, f"status:code={status}", stream=True))
    assert type(error) is kind
    assert (error.status, error.code) == (shown, code)
    assert "upstream says" not in error.message
    assert error.fault != "caller"


def test_a_spent_quota_upstream_is_not_the_caller_s_quota(server: str) -> None:
    error = asyncio.run(refused(server, "status:code=429,why=insufficient_quota", stream=False))
    assert (error.status, error.code) == (503, "upstream_quota")


def test_a_rate_limit_upstream_has_the_type_of_one(server: str) -> None:
    error = asyncio.run(refused(server, "status:code=429", stream=False))
    assert error.type == "rate_limit_error"


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("after=7", 7.0), ("after=0.5", 0.5), ("ms=250,after=9", 0.25), ("after=999999", 86_400.0), ("after=-3", None),
     ("after=soon", None), ("after=Wed_21_Oct_2015_07:28:00_GMT", None), ("after=nan", None)],
)  # fmt: skip
def test_retry_after_is_understood_in_all_its_forms(server: str, given: str, seconds: float | None) -> None:
    error = asyncio.run(refused(server, f"status:code=429,{given}", stream=False))
    assert error.retry_after == seconds


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_key_that_the_upstream_repeats_is_not_told_to_the_caller(server: str, status: int) -> None:
    error = asyncio.run(refused(server, f"echo_key:code={status}", stream=False, api_key="sk-very-secret"))
    assert "very-secret" not in error.message.lower()


@pytest.mark.parametrize(
    ("model", "phase", "code"),
    [
        ("comments", "first_token", "upstream_first_token_timeout"),
        ("stall", "between_tokens", "upstream_stalled"),
    ],
)
def test_comments_and_silence_are_not_progress(server: str, model: str, phase: str, code: str) -> None:
    async def main() -> None:
        up = backend(server, timeouts=Timeouts(1.0, 0.2, 0.2, 10.0))
        _, _, error = await collect(await up.open(call(model, stream=True), target(model)))
        assert type(error) is UpstreamTimeout
        assert f"phase: {phase}" in error.message
        assert error.code == code
        assert up.counts.active == 0
        await until_stats(server, lambda now: now["open"] == 0)

    asyncio.run(main())


def test_a_slow_head_is_a_timeout_of_the_first_token(server: str) -> None:
    timeouts = Timeouts(1.0, 0.1, 5.0, 10.0)
    error = asyncio.run(refused(server, "slow_head", stream=False, timeouts=timeouts))
    assert type(error) is UpstreamTimeout
    assert error.code == "upstream_first_token_timeout"


def test_who_takes_long_to_say_why_it_refuses_is_not_waited_for(server: str) -> None:
    for stream in (False, True):
        refusal = refused(server, "slow_refusal", stream=stream, timeouts=Timeouts(1.0, 60.0, 60.0, 60.0))
        error = asyncio.run(asyncio.wait_for(refusal, 20))
        assert type(error) is Overloaded, "its status was there at once, and says enough for the next target"
        assert error.code == "upstream_overloaded"


def test_the_end_of_all_patience_has_a_code_of_its_own(server: str) -> None:
    error = asyncio.run(refused(server, "slow_head", stream=False, timeouts=Timeouts(1.0, 5.0, 5.0, 0.1)))
    assert type(error) is UpstreamTimeout
    assert error.code == "upstream_timeout"


def test_a_slow_consumer_of_an_endless_stream_makes_the_upstream_stand_still(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        answer = await up.open(call("endless", stream=True), target("endless"))
        assert answer.stream is not None
        largest = 0
        for _ in range(20):
            item = await answer.stream.__anext__()
            assert isinstance(item, bytes)
            assert item.endswith(b"\n\n")
            largest = max(largest, len(item))
            await asyncio.sleep(0.01)
        assert largest < HIGH_WATER_BYTES + 300_000  # what lay in our buffer, and one more read of the loop
        sent = -1
        async with asyncio.timeout(10):
            while (now := (await stats(server))["sent"]) != sent:
                sent = now
                await asyncio.sleep(0.1)
        await answer.aclose()
        await until_stats(server, lambda now: now["open"] == 0)

    asyncio.run(main())


def test_calls_beyond_the_pool_and_its_queue_are_refused_at_once(server: str) -> None:
    async def main() -> None:
        up = backend(server, pool=PoolSettings(max_connections=1, max_waiting=0))
        holding = await up.open(call("stall", stream=True), target("stall"))
        with pytest.raises(Overloaded) as full:
            await up.open(call("ok"), target("ok"))
        assert (full.value.status, full.value.code) == (503, "upstream_pool_full")
        await holding.aclose()
        await (await up.open(call("ok"), target("ok"))).aclose()
        await up.aclose()

    asyncio.run(main())


def test_a_page_with_400_is_not_the_caller_s_fault() -> None:
    page = b"\r\n<html><body>Request Header Or Cookie Too Large</body></html>"
    error = error_for(400, lambda name: None, page, 0.0)
    assert (type(error), error.status, error.code) == (Upstream, 502, "upstream_error")
    assert type(error_for(400, lambda name: None, b"no", 0.0)) is BadCall


@pytest.mark.parametrize("place", [0, 2**20 - 1, 2**20, 2**21])
def test_a_large_body_is_utf8_or_no_answer(place: int) -> None:
    good = ("x" * place + "🙂" + "y" * 2**20).encode()
    check_utf8(good)
    for broken in (good[:place] + b"\xff" + good[place:], good[: place + 2]):
        with pytest.raises(UnicodeDecodeError):
            check_utf8(broken)


def test_a_server_that_gives_no_reasons_may_be_taken_at_its_word(server: str) -> None:
    async def main() -> None:
        up = backend(server, finish_reasons=False)
        answer = await up.open(call("done_unfinished", stream=True), target("done_unfinished"))
        assert answer.stream is not None
        assert Finish("stop") in [item async for item in answer.stream]
        await answer.aclose()
        await up.aclose()

    asyncio.run(main())

"""Every phase of a call upstream has its end, the route's before the backend's, and only what says something counts."""

import asyncio
import time
from typing import Any

import pytest

from headgate.backends.http.address import resolve
from headgate.backends.http.client import HttpClient, request_head
from headgate.backends.http.pace import Pace
from headgate.backends.openai_stream import Expectation, FrameReader, Relay
from headgate.core.deadline import Timeouts
from headgate.core.errors import HeadgateError, Upstream, UpstreamTimeout
from headgate.core.ports import Answer, Progress
from headgate.core.rules import Patience
from headgate.core.target import Target
from tests.backends.calls import CLOCK, backend, call, collect, target, until_stats
from tests.upstream.process import get, upstream

LONG = Timeouts(5.0, 30.0, 30.0, 60.0)


async def ended(base_url: str, model: str, timeouts: Timeouts, patience: Patience | None = None) -> HeadgateError:
    """What a stream ends with; afterwards nothing is held here or there."""
    up = backend(base_url, timeouts=timeouts)
    try:
        answer = await up.open(call(model, stream=True), Target("up", model, patience=patience))
        _, _, error = await collect(answer)
    except HeadgateError as refused:
        error = refused
    assert error is not None
    assert up.counts.active == 0
    await up.aclose()
    await until_stats(base_url, lambda now: now["open"] == 0)
    return error


@pytest.mark.parametrize(
    ("model", "phase"),
    [
        ("slow_head", "first_token"),
        ("comments", "first_token"),
        ("mumble", "first_token"),
        ("stall", "between_tokens"),
        ("mumble:after=2", "between_tokens"),
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["the backend's", "the route's"])
def test_a_phase_ends_by_its_own_time_whatever_else_is_sent(server: str, model: str, phase: str, own: bool) -> None:
    short: dict[str, Any] = {f"{phase}_s": 0.3}
    timeouts = LONG if own else Timeouts(**{"first_token_s": 30.0, "between_tokens_s": 30.0, **short})
    error = asyncio.run(ended(server, model, timeouts, Patience(**short) if own else None))
    assert type(error) is UpstreamTimeout
    assert f"phase: {phase}" in error.message
    assert error.code == {"first_token": "upstream_first_token_timeout", "between_tokens": "upstream_stalled"}[phase]


@pytest.mark.parametrize("own", [False, True], ids=["the backend's", "the route's"])
def test_the_whole_has_an_end_however_well_it_goes(server: str, own: bool) -> None:
    timeouts = LONG if own else Timeouts(total_s=0.4)
    error = asyncio.run(ended(server, "ok:tokens=9999,ms=20", timeouts, Patience(total_s=0.4) if own else None))
    assert type(error) is UpstreamTimeout
    assert "phase: total" in error.message


def test_a_route_without_timeouts_of_its_own_leaves_the_backend_s(server: str) -> None:
    error = asyncio.run(ended(server, "stall", Timeouts(between_tokens_s=0.2), Patience()))
    assert "phase: between_tokens" in error.message


def test_many_routes_timeouts_are_remembered_within_bounds(server: str) -> None:
    async def main() -> None:
        up = backend(server)
        for number in range(1_100):
            up._under(Patience(total_s=1.0 + number))
        assert len(up._timeouts) == 1_000
        assert up._under(Patience(total_s=5_000.0)).total_s == 5_000.0
        await up.aclose()

    asyncio.run(main())


def sent(base_url: str) -> dict[str, str]:
    return {name.lower(): value for name, value in get(base_url, "/last")["headers"]}


@pytest.mark.parametrize(
    ("seconds", "patience", "most"),
    [(12.5, None, 12.5), (3_000.0, None, 20.0), (12.5, Patience(total_s=2.0), 2.0)],
    ids=["the caller's", "the backend's", "the route's"],
)
def test_the_upstream_is_told_how_long_the_call_still_has(
    server: str, seconds: float, patience: Patience | None, most: float
) -> None:
    async def main() -> None:
        up = backend(server)
        answer = await up.open(call(seconds=seconds), Target("up", "ok", patience=patience))
        await answer.aclose()
        told = sent(server)["x-headgate-timeout-s"]
        assert 0 < float(told) <= most
        assert len(told.partition(".")[2]) == 3
        await up.aclose()

    asyncio.run(main())


def test_the_header_of_the_deadline_can_be_named_or_left_out(server: str) -> None:
    async def main() -> None:
        for name in ("X-Request-Timeout", ""):
            up = backend(server, deadline_header=name)
            await (await up.open(call(), target("ok"))).aclose()
            assert ("x-request-timeout" in sent(server)) is bool(name)
            assert "x-headgate-timeout-s" not in sent(server)
            await up.aclose()
        for wrong in ({"deadline_header": "no header"}, {"headers": {"X-Headgate-Timeout-S": "5"}}):
            with pytest.raises(ValueError, match="header"):
                backend(server, **wrong)

    asyncio.run(main())


async def paced(base_url: str, model: str, pace: Pace, pause_s: float = 0.0) -> HeadgateError | None:
    """How a stream ends that must keep up `pace` while its reader pauses after each piece."""
    http = HttpClient(backend(base_url)._origin, CLOCK)
    head = request_head(http.origin, "POST", "/v1/chat/completions", {"content-type": "application/json"})
    body = call(model, stream=True).raw
    exchange = await http.send(head, body, timeouts=LONG)
    relay = Relay(exchange, FrameReader(Expectation(), Progress(), pace))
    try:
        async for _ in relay:
            await asyncio.sleep(pause_s)
    except HeadgateError as error:
        return error
    finally:
        await relay.aclose()
        http.close()
    return None


def test_a_stream_below_its_floor_is_ended_as_too_slow(server: str) -> None:
    error = asyncio.run(paced(server, "ok:tokens=9999,ms=20", Pace(1_000.0, window_s=0.5)))
    assert type(error) is UpstreamTimeout
    assert error.code == "upstream_too_slow"


def test_a_stream_above_its_floor_comes_to_its_end(server: str) -> None:
    assert asyncio.run(paced(server, "ok:tokens=120,ms=20", Pace(1.0, window_s=1.0))) is None


def test_a_reader_that_takes_its_time_makes_no_stream_slow(server: str) -> None:
    assert asyncio.run(paced(server, "ok:tokens=3000", Pace(1_000.0, window_s=0.2), pause_s=0.3)) is None


def test_pieces_of_many_tokens_count_as_many() -> None:
    pace = Pace(1.0)
    reader = FrameReader(Expectation(), Progress(), pace)
    reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 400))
    assert (pace.tokens, reader.said) == (100.0, 1)
    reader.feed(b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
    reader.feed(b'data: {"choices":[{"index":0,"text":"x"}]}\n\n')
    assert (pace.tokens, reader.said) == (102.0, 3)


@pytest.mark.parametrize(
    ("delta", "said"),
    [
        ('{"content":"x"}', 1), ('{"reasoning_content":"x"}', 1), ('{"reasoning_details":[{"text":"x"}]}', 1),
        ('{"tool_calls":[{"index":0}]}', 1), ('{"audio":{"data":"AA=="}}', 1), ('{"role":"assistant"}', 0),
        ('{"role":"assistant","content":"","refusal":null}', 0), ('{"reasoning_details":[],"content":null}', 0),
        ("{}", 0),
    ],
)  # fmt: skip
def test_only_what_says_something_is_a_token(delta: str, said: int) -> None:
    reader = FrameReader(Expectation(), Progress(), Pace(1.0))
    reader.feed(b'data: {"choices":[{"index":0,"delta":%b}]}\n\n' % delta.encode())
    assert reader.said == said


@pytest.mark.prove
def test_the_backend_s_and_the_route_s_floor_end_a_slow_stream_after_ten_seconds_of_it(server: str) -> None:
    for timeouts, patience in (
        (Timeouts(min_tokens_per_s=500.0), None),
        (Timeouts(), Patience(min_tokens_per_s=500.0)),
    ):
        started = time.monotonic()
        error = asyncio.run(ended(server, "ok:tokens=9999,ms=20", timeouts, patience))
        assert error.code == "upstream_too_slow"
        assert time.monotonic() - started >= 9.5


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed_nor_resolved(server: str, status: int) -> None:
    """Neither to the metadata service nor to a private address where somebody listens."""

    async def main() -> None:
        asked: list[str] = []

        async def resolver(host: str, port: int) -> Any:
            asked.append(host)
            return await resolve(host, port)

        with upstream() as inside:
            for to in (
                "http://169.254.169.254/latest/meta-data/",
                f"{inside}/chat/completions",
                "//metadata.google.internal/",
            ):
                up = backend(server, resolver=resolver)
                model = f"status:code={status},to={to}"
                with pytest.raises(Upstream) as refused:
                    await up.open(call(model), target(model))
                assert (refused.value.code, refused.value.status) == ("upstream_redirect", 502)
                assert "169.254" not in refused.value.message
                await up.aclose()
            assert get(inside, "/stats")["requests"] == 0
            assert set(asked) == {"127.0.0.1"}

    asyncio.run(main())


def test_a_good_answer_is_untouched_by_a_floor(server: str) -> None:
    async def main() -> None:
        up = backend(server, timeouts=Timeouts(min_tokens_per_s=0.5))
        answer: Answer = await up.open(call("ok", stream=True), target("ok"))
        data, _, error = await collect(answer)
        assert error is None
        assert data.count(b"data: ") > 3
        await up.aclose()

    asyncio.run(main())

"""The client against a real server in another process, on both event loops."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
import uvloop

from headgate.backends.http.address import Origin, parse_base_url
from headgate.backends.http.client import HttpClient, request_head
from headgate.backends.http.exchange import HIGH_WATER_BYTES, Exchange
from headgate.backends.http.pool import PoolSettings
from headgate.core.deadline import Deadline, Timeouts
from headgate.core.errors import Overloaded, Truncated, Upstream, UpstreamTimeout
from tests.backends.calls import CLOCK, stats, until, until_stats
from tests.upstream.process import upstream

Run = Callable[[Coroutine[Any, Any, None]], None]
LONG = Timeouts(2.0, 10.0, 10.0, 20.0)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return asyncio.run if request.param == "asyncio" else uvloop.run


def client(base_url: str, **settings: Any) -> HttpClient:
    return HttpClient(parse_base_url(base_url), CLOCK, settings=PoolSettings(**settings))


async def post(http: HttpClient, model: str, timeouts: Timeouts = LONG, **fields: Any) -> Exchange:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
    head = request_head(http.origin, "POST", "/v1/chat/completions", {"content-type": "application/json"})
    return await http.send(head, json.dumps(body).encode(), timeouts=timeouts)


def test_connections_are_reused_and_all_come_back(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        before = (await stats(server))["accepted"]
        for _ in range(20):
            exchange = await post(http, "ok")
            assert b"hello" in await exchange.read_all(10_000)
            assert (http.counts.active, http.counts.idle) == (0, 1)
        assert (await stats(server))["accepted"] - before == 2  # ours, and the one that asks for the counts
        http.close()
        assert http.counts.idle == 0

    run(main())


def test_a_stale_connection_is_replaced_once_and_nobody_notices(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        for _ in range(5):  # left idle, and found closed before it is used
            await (await post(http, "then_close")).read_all(10_000)
        await (await post(http, "ok")).read_all(10_000)
        before = await stats(server)
        exchange = await post(http, "close_once")  # closed by the server while the request is on its way
        assert b"hello" in await exchange.read_all(10_000)
        assert (await stats(server))["requests"] == before["requests"] + 2
        assert http.counts.active == 0
        http.close()

    run(main())


def test_a_fresh_connection_that_is_closed_unanswered_is_not_tried_again(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        requests = (await stats(server))["requests"]
        with pytest.raises(Upstream) as lost:
            await post(http, "close_before_head")
        assert lost.value.code == "upstream_disconnected"
        assert (await stats(server))["requests"] == requests + 1
        assert http.counts.active == 0

    run(main())


def test_a_cancelled_consumer_closes_the_upstream_call(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        before = await stats(server)
        waiting = asyncio.ensure_future(post(http, "slow_head"))
        exchange = await post(http, "stall", stream=True)
        assert b"first" in await exchange.__anext__()
        reading = asyncio.ensure_future(exchange.__anext__())
        await until_stats(server, lambda now: now["open"] == before["open"] + 2)
        waiting.cancel()
        reading.cancel()
        await asyncio.gather(waiting, reading, return_exceptions=True)
        assert http.counts == http.counts.__class__(0, 0, 0)
        await until_stats(server, lambda now: now["open"] == 0 and now["cancelled"] == before["cancelled"] + 2)
        with pytest.raises(Truncated):
            await exchange.__anext__()

    run(main())


def test_whoever_waits_for_an_exchange_that_is_ended_by_another_is_told(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        exchange = await post(http, "stall", stream=True)
        await exchange.__anext__()
        reading = asyncio.create_task(drained(exchange))
        await asyncio.sleep(0.05)
        exchange.abort()
        with pytest.raises(Truncated):
            await asyncio.wait_for(reading, 5.0)
        assert http.counts.active == 0

    run(main())


async def drained(exchange: Exchange) -> None:
    async for _ in exchange:
        pass


def test_a_consumer_that_lags_stops_the_upstream_and_memory_stays_bounded(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        exchange = await post(http, "endless", stream=True)
        sent = -1
        while (now := (await stats(server))["sent"]) != sent:  # until the upstream stands still
            sent = now
            await asyncio.sleep(0.2)
        assert exchange._response.buffered < HIGH_WATER_BYTES + 300_000
        first = await exchange.__anext__()
        assert len(first) >= HIGH_WATER_BYTES  # many reads in one piece
        for _ in range(50):
            await exchange.__anext__()
        assert (await stats(server))["sent"] > sent
        exchange.abort()
        await until_stats(server, lambda now: now["open"] == 0)
        assert http.counts.active == 0

    run(main())


@pytest.mark.parametrize(
    ("model", "timeouts", "phase"),
    [
        ("slow_head", Timeouts(1.0, 0.1, 9.0, 9.0), "first_token"),
        ("stall", Timeouts(1.0, 9.0, 0.1, 9.0), "between_tokens"),
        ("slow_head", Timeouts(1.0, 9.0, 9.0, 0.1), "total"),
        ("stall", Timeouts(1.0, 9.0, 9.0, 0.1), "total"),
    ],
)
def test_each_phase_has_its_timeout(server: str, run: Run, model: str, timeouts: Timeouts, phase: str) -> None:
    async def main() -> None:
        http = client(server)
        with pytest.raises(UpstreamTimeout, match=f"phase: {phase}"):
            await (await post(http, model, timeouts, stream=True)).read_all(100_000)
        assert http.counts.active == 0
        await until_stats(server, lambda now: now["open"] == 0)

    run(main())


def test_a_busy_consumer_is_not_an_upstream_that_stalls(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        exchange = await post(http, "ok:tokens=3,ms=20", Timeouts(1.0, 5.0, 0.3, 9.0), stream=True)
        async for _ in exchange:
            exchange.progress()
            await asyncio.sleep(0.5)
        assert http.counts.active == 0
        http.close()

    run(main())


def test_the_deadline_of_the_call_ends_it(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        head = request_head(http.origin, "POST", "/v1/chat/completions", {})
        body = b'{"model":"slow_head"}'
        for seconds in (0.1, 0.0):
            with pytest.raises(UpstreamTimeout, match="total"):
                await http.send(head, body, timeouts=LONG, deadline=Deadline.after(CLOCK, seconds))
        assert http.counts.active == 0

    run(main())


def test_a_server_that_does_not_accept_times_out_in_connect(run: Run) -> None:
    async def main() -> None:
        # 192.0.2.0/24 is reserved for documentation: nothing answers, or there is no route
        http = HttpClient(Origin(False, "192.0.2.1", 81, ""), CLOCK)
        with pytest.raises((UpstreamTimeout, Upstream)) as failed:
            await http.send(b"GET / HTTP/1.1\r\n", timeouts=Timeouts(connect_s=0.1))
        assert failed.value.code in {"upstream_connect_timeout", "upstream_unreachable"}
        assert http.counts.active == 0

    run(main())


def test_nobody_there_is_said_plainly_without_addresses(run: Run) -> None:
    async def main() -> None:
        with upstream() as base_url:
            port = parse_base_url(base_url).port
        http = HttpClient(Origin(False, "localhost", port, ""), CLOCK)
        with pytest.raises(Upstream) as failed:
            await http.send(b"GET / HTTP/1.1\r\n", timeouts=LONG)
        assert failed.value.code == "upstream_unreachable"
        assert str(port) not in failed.value.message

    run(main())


def test_the_pool_is_bounded_and_waiters_are_served_in_order(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server, max_connections=2, max_waiting=3, wait_s=5.0)
        holding = [await post(http, "stall", stream=True) for _ in range(2)]
        order: list[int] = []

        async def one(number: int) -> None:
            exchange = await post(http, "ok")
            order.append(number)
            await exchange.read_all(10_000)

        waiting = []
        for number in range(3):
            waiting.append(asyncio.ensure_future(one(number)))
            await until(partial(lambda count: http.counts.waiting == count, number + 1))
        with pytest.raises(Overloaded) as full:
            await post(http, "ok")
        assert full.value.code == "upstream_pool_full"
        assert full.value.retry_after is not None
        waiting[1].cancel()
        holding[0].abort()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert order == [0, 2]
        holding[1].abort()
        assert (http.counts.active, http.counts.waiting) == (0, 0)
        http.close()

    run(main())


def test_a_wait_for_a_connection_has_an_end(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server, max_connections=1, wait_s=0.05)
        holding = await post(http, "stall", stream=True)
        with pytest.raises(Overloaded) as waited:
            await post(http, "ok")
        assert waited.value.code == "upstream_pool_wait"
        assert http.counts.waiting == 0
        holding.abort()
        await (await post(http, "ok")).read_all(10_000)
        http.close()

    run(main())


def test_many_callers_who_come_and_go_leave_nothing_behind(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server, max_connections=8, max_waiting=500)

        async def one(number: int) -> None:
            exchange = await post(http, "ok:tokens=40,ms=1", stream=True)
            async for data in exchange:
                assert b"t" in data or b"DONE" in data or data

        tasks = [asyncio.ensure_future(one(number)) for number in range(100)]
        for step, task in enumerate(tasks):
            if step % 2:
                await asyncio.sleep(0.003)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (http.counts.active, http.counts.waiting) == (0, 0)
        assert http.counts.idle <= 8
        await until_stats(server, lambda now: now["open"] == 0)
        http.close()

    run(main())


@pytest.mark.parametrize("model", ["extra_bytes", "close_delimited"])
def test_a_connection_with_bytes_left_over_or_without_a_length_is_not_used_again(
    server: str, run: Run, model: str
) -> None:
    async def main() -> None:
        http = client(server)
        for number in range(10):
            body = await (await post(http, model, user=str(number))).read_all(10_000)
            assert json.loads(body)["object"] == "chat.completion"  # never the bytes meant for nobody
        http.close()

    run(main())


def test_bytes_that_come_while_a_connection_lies_idle_end_it(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        await (await post(http, "extra_bytes:late=1")).read_all(10_000)
        await until(lambda: http.counts.idle == 0)

    run(main())


def test_a_large_request_and_a_large_answer_pass_whole(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server)
        exchange = await post(http, "big_json:size=5000000", padding="y" * 2_000_000)
        body = await exchange.read_all(10_000_000)
        assert json.loads(body)["padding"] == "x" * 5_000_000
        with pytest.raises(Upstream, match="larger"):
            await (await post(http, "big_json:size=5000000")).read_all(1_000_000)
        assert http.counts.active == 0
        http.close()

    run(main())


def test_idle_connections_are_closed_after_a_while(server: str, run: Run) -> None:
    async def main() -> None:
        http = client(server, idle_s=0.05)
        await (await post(http, "ok")).read_all(10_000)
        assert http.counts.idle == 1
        await until(lambda: http.counts.idle == 0)

    run(main())

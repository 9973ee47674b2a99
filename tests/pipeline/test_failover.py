"""The whole path where upstreams fail: retries, rescue, hedges, breakers, and what is left when all of it is over."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from headgate.core.call import Call
from headgate.core.errors import Overloaded, Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event, Finish, Text
from headgate.core.ports import Progress
from headgate.core.rules import Hedge, HoldBack, Rules
from headgate.core.usage import Usage
from headgate.pipeline.gate import GateSettings
from headgate.pipeline.hedging import ENOUGH
from headgate.pipeline.retry_budget import RetrySettings
from headgate.telemetry import names
from tests.pipeline.spine import Spine, Tell, Telling, fails, hangs, read, says, until

WHOLE = (Text("one "), Text("two "), Text("three"), Finish("stop"), Usage(input=3, output=3))


def text_of(items: list[Event | bytes]) -> str:
    return "".join(item.text for item in items if isinstance(item, Text))


def after(seconds: float, *items: Event) -> Tell:
    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        await asyncio.sleep(seconds)
        for item in items:
            yield item

    return tell


def in_turn(*tells: Tell) -> Tell:
    """Each for one attempt; the last for all that follow."""
    left = list(tells)

    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        one = left.pop(0) if len(left) > 1 else left[0]
        async for item in one(call, progress):
            yield item

    return tell


def test_a_cut_stream_goes_on_at_the_next_replica_and_the_caller_sees_one_answer(tmp_path: Path) -> None:
    async def main() -> None:
        cut, good = Telling("a", says(*WHOLE[:2], Truncated("cut"))), Telling("b", says(*WHOLE))
        spine = Spine(tmp_path, [cut, good]).rule(Rules(balance="round_robin"), shared=True)
        reply = await spine.handle()
        items = await read(reply)
        assert (text_of(items), items.count(Finish("stop"))) == ("one two three", 1)
        await reply.aclose()
        receipts = {(r.backend, r.outcome, r.reason, r.attempt) for r in spine.receipts()}
        assert receipts == {("a", "failed", "first", 1), ("b", "ok", "replay", 2)}
        (line,) = spine.done()
        assert (line["outcome"], line["attempts"]) == ("ok", 2)
        assert line["tried"] == ["a first: upstream_truncated", "b replay: ok"]
        spine.at_rest()

    asyncio.run(main())


def test_a_broken_stream_frees_its_place_and_its_connection_before_the_other_is_asked(tmp_path: Path) -> None:
    async def main() -> None:
        cut, good = Telling("a", says(Text("one "), Truncated("cut"))), Telling("b", hangs(*WHOLE[:1]))
        spine = Spine(tmp_path, [cut, good]).rule(Rules(balance="round_robin"), shared=True)
        reply = await spine.handle()
        reading = asyncio.create_task(read(reply))
        await until(lambda: good.opened == 1)
        assert (cut.closed, spine.path.gates.active()["a"]) == (1, 0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await reply.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_an_answer_that_differs_is_never_joined_and_the_error_stands(tmp_path: Path) -> None:
    async def main() -> None:
        cut, other = (
            Telling("a", says(Text("one "), Truncated("cut"))),
            Telling("b", says(Text("uno "), Finish("stop"))),
        )
        spine = Spine(tmp_path, [cut, other])
        reply = await spine.handle()
        assert reply.stream is not None
        assert await anext(reply.stream) == Text("one ")
        with pytest.raises(Truncated) as told:
            await anext(reply.stream)
        await reply.aclose(told.value)
        assert [(r.backend, r.outcome, r.code) for r in spine.receipts()][-1] == ("b", "cancelled", "replay_diverged")
        assert (spine.done()[0]["outcome"], spine.done()[0]["code"]) == ("failed", "upstream_truncated")
        spine.at_rest()

    asyncio.run(main())


def test_all_that_was_missing_was_the_end_then_the_call_is_no_failure(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(Text("all"), Finish("stop"), Truncated("cut")))])
        assert text_of(await spine.whole()) == "all"
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("failed", "upstream_truncated")]
        assert spine.done()[0]["outcome"] == "ok"
        spine.at_rest()

    asyncio.run(main())


def test_what_is_held_back_is_mended_unseen_even_by_another_model(tmp_path: Path) -> None:
    async def main() -> None:
        cut, other = (
            Telling("a", says(Text("one "), Truncated("cut"))),
            Telling("b", says(Text("uno "), Finish("stop"))),
        )
        spine = Spine(tmp_path, [cut, other]).rule(Rules(hold_back=HoldBack(tokens=3)))
        assert text_of(await spine.whole()) == "uno "
        assert [r.reason for r in spine.receipts()] == ["first", "fallback"]
        spine.at_rest()

    asyncio.run(main())


def test_the_only_target_is_tried_again_after_a_failure_and_a_fallback_names_itself(tmp_path: Path) -> None:
    async def main() -> None:
        alone = Telling("a", in_turn(fails(Upstream("once")), says(*WHOLE)))
        spine = Spine(tmp_path, [alone])
        reply = await spine.handle()
        headers = dict(reply.headers)
        assert (headers[b"x-headgate-level"], headers[b"x-headgate-tried"]) == (
            b"full",
            b"a first: upstream_error, a retry: answers",
        )
        assert text_of(await read(reply)) == "one two three"
        await reply.aclose()
        two = Spine(tmp_path / "2", [Telling("a", fails(UpstreamTimeout("slow"))), Telling("b", says(*WHOLE))])
        other = await two.handle()
        assert dict(other.headers)[b"x-headgate-level"] == b"fallback"
        assert dict(other.headers)[b"x-headgate-model"] == b"m"
        await other.aclose()
        two.at_rest()

    asyncio.run(main())


def test_where_everything_fails_a_storm_is_impossible(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", fails(Upstream("down")))
        spine = Spine(tmp_path, [backend])
        spine.path.upstreams.retries.use(RetrySettings(ratio=0.1, reserve=5, backoff_s=0))
        for number in range(100):
            with pytest.raises((Upstream, Overloaded)):
                await spine.gateway.handle(spine.call(temperature=number / 100))
        assert backend.opened <= 100 * 1.1 + 5
        spine.at_rest()

    asyncio.run(main())


def test_a_breaker_leaves_an_ill_replica_alone_and_its_calls_go_elsewhere_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        ill, good = Telling("a", fails(Upstream("down"))), Telling("b", says(*WHOLE))
        spine = Spine(tmp_path, [ill, good])
        for _ in range(20):
            assert text_of(await spine.whole()) == "one two three"
        assert ill.opened == 5, "five failures in a row"
        last = spine.receipts()[-1]
        assert (last.backend, last.attempt, last.reason) == ("b", 1, "fallback")
        assert last.passed_over is not None
        assert last.passed_over.startswith("a: ")
        states = [line for line in spine.lines if line["event"] == names.REPLICA_CHANGED]
        assert [(line["replica"], line["state"]) for line in states] == [("a", "open")]
        spine.at_rest()

    asyncio.run(main())


def test_the_only_backend_is_still_asked_while_it_is_ill_but_not_by_everybody(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", in_turn(*[fails(UpstreamTimeout("slow"))] * 5, hangs()))
        spine = Spine(tmp_path, [backend])
        for _ in range(5):
            with pytest.raises(UpstreamTimeout):
                await spine.handle()
        waiting = [asyncio.create_task(spine.handle(seconds=0.3)) for _ in range(30)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        codes = [getattr(result, "code", None) for result in results]
        assert codes.count("deadline_exceeded") == 8
        assert codes.count("backend_unavailable") == 22
        refused = next(result for result in results if isinstance(result, Overloaded))
        assert refused.retry_after is not None
        spine.at_rest()

    asyncio.run(main())


def test_whoever_waits_for_a_replica_that_falls_silent_goes_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        silent, good = Telling("a", hangs()), Telling("b", says(*WHOLE))
        spine = Spine(tmp_path, [silent, good])
        spine.path.gates.use(GateSettings(), {"a": 2})
        calls = [asyncio.create_task(spine.whole()) for _ in range(4)]
        await until(lambda: silent.opened == 2 and spine.path.gates.waiting()["a"] == 2)
        spine.path.care.failing("a", "no answer within 0.5 s")
        for items in await asyncio.gather(*calls):
            assert text_of(items) == "one two three"
        assert sorted((r.backend, r.outcome, r.code) for r in spine.receipts()) == [
            *[("a", "failed", "upstream_silent")] * 2,
            *[("b", "ok", None)] * 4,
        ]
        spine.at_rest()

    asyncio.run(main())


def test_a_stream_in_progress_at_a_replica_that_falls_silent_is_rescued(tmp_path: Path) -> None:
    async def main() -> None:
        silent, good = Telling("a", hangs(*WHOLE[:1])), Telling("b", says(*WHOLE))
        spine = Spine(tmp_path, [silent, good])
        reply = await spine.handle()
        reading = asyncio.create_task(read(reply))
        await asyncio.sleep(0.01)
        spine.path.care.failing("a", "no answer within 0.5 s")
        assert text_of(await reading) == "one two three"
        await reply.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_the_only_target_is_waited_for_although_it_is_silent(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", after(0.1, *WHOLE))])
        call = asyncio.create_task(spine.whole())
        await asyncio.sleep(0.02)
        spine.path.care.failing("a", "no answer within 0.5 s")
        assert text_of(await call) == "one two three"
        spine.at_rest()

    asyncio.run(main())


def warm(spine: Spine, latency_s: float) -> None:
    """As if so many calls had begun after this time and earned their hedges."""
    hedges = spine.path.upstreams.hedges("m")
    for _ in range(ENOUGH):
        hedges.began(latency_s)
        hedges.came(Hedge(max_extra=1.0))


HEDGED = Rules(balance="round_robin", hedge=Hedge(min_s=0.01, max_extra=1.0))


def test_a_late_answer_is_raced_and_the_loser_is_ended_and_metered(tmp_path: Path) -> None:
    async def main() -> None:
        late, quick = Telling("a", hangs()), Telling("b", says(*WHOLE))
        spine = Spine(tmp_path, [late, quick]).rule(HEDGED, shared=True)
        warm(spine, 0.01)
        assert text_of(await spine.whole()) == "one two three"
        receipts = {r.backend: r for r in spine.receipts()}
        assert (receipts["a"].outcome, receipts["a"].code) == ("cancelled", "hedge_lost")
        assert receipts["a"].usage.input > 0, "its prompt was being read: that is paid for"
        assert (receipts["b"].outcome, receipts["b"].reason) == ("ok", "hedge")
        assert spine.done()[0]["outcome"] == "ok"
        spine.at_rest()

    asyncio.run(main())


def test_an_answer_in_time_is_not_raced(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = Telling("a", says(*WHOLE)), Telling("b", says(*WHOLE))
        spine = Spine(tmp_path, [first, second]).rule(HEDGED, shared=True)
        warm(spine, 5.0)
        await spine.whole()
        assert first.opened + second.opened == 1
        spine.at_rest()

    asyncio.run(main())


def test_hedges_stay_below_their_cap(tmp_path: Path) -> None:
    async def main() -> None:
        slow, also = Telling("a", after(0.03, *WHOLE)), Telling("b", after(0.03, *WHOLE))
        rule = Rules(balance="round_robin", hedge=Hedge(min_s=0.001, max_extra=0.1))
        spine = Spine(tmp_path, [slow, also]).rule(rule, shared=True)
        for _ in range(ENOUGH):
            spine.path.upstreams.hedges("m").began(0.001)
        for _ in range(40):
            await spine.whole()
        assert 40 < slow.opened + also.opened <= 44
        spine.at_rest()

    asyncio.run(main())


def test_where_both_of_a_race_fail_the_call_goes_on_as_any_other(tmp_path: Path) -> None:
    async def main() -> None:
        backends = [
            Telling("a", after(0.05)),
            Telling("b", fails(Upstream("b"))),
            Telling("c", says(*WHOLE)),
        ]
        spine = Spine(tmp_path, backends).rule(HEDGED, shared=True)
        warm(spine, 0.01)
        assert text_of(await spine.whole()) == "one two three"
        assert len(spine.receipts()) == 3
        spine.at_rest()

    asyncio.run(main())


def test_a_caller_that_leaves_a_race_leaves_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        backends = [Telling("a", hangs()), Telling("b", GONE)]
        spine = Spine(tmp_path, backends).rule(HEDGED, shared=True)
        warm(spine, 0.01)
        call = asyncio.create_task(spine.handle())
        await until(lambda: all(backend.opened for backend in backends))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert [r.outcome for r in spine.receipts()] == ["cancelled", "cancelled"]
        spine.at_rest()

    asyncio.run(main())


GONE = hangs()

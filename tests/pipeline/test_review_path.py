"""The whole path at its edges: who is told what, where a caller leaves, a replica goes, or a race is on."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from headgate.backends.pulse import WatchSettings
from headgate.backends.replicas import Replicas
from headgate.core.call import Call
from headgate.core.errors import Overloaded, Truncated, Upstream
from headgate.core.events import Event, Finish, Text
from headgate.core.ports import Answer, Progress
from headgate.core.rules import Rules
from headgate.core.target import Route, RouteTable, Target
from headgate.core.tasks import Tasks
from headgate.core.usage import Usage
from headgate.pipeline.gate import GateSettings
from headgate.pipeline.retry_budget import RetrySettings
from tests.pipeline.spine import Bodied, Spine, Tell, Telling, fails, hangs, read, says, until
from tests.pipeline.test_failover import HEDGED, WHOLE, after, in_turn, text_of, warm


def test_a_caller_that_leaves_between_two_attempts_has_left_whatever_failed_before(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", fails(Upstream("500")))])
        spine.path.upstreams.retries.use(RetrySettings(backoff_s=30.0, backoff_max_s=30.0))
        call = asyncio.create_task(spine.handle())
        await until(lambda: len(spine.receipts()) == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        (line,) = spine.done()
        assert (line["outcome"], line["status"]) == ("cancelled", 499)
        spine.at_rest()

    asyncio.run(main())


def test_a_caller_that_leaves_the_winner_of_a_race_has_left_whatever_became_of_the_loser(tmp_path: Path) -> None:
    async def main() -> None:
        first = Telling("a", after(0.1, *WHOLE))
        spine = Spine(tmp_path, [first, Telling("b", fails(Upstream("b")))]).rule(HEDGED, shared=True)
        warm(spine, 0.01)
        reply = await spine.handle()
        await reply.aclose()
        (line,) = spine.done()
        assert (line["outcome"], line["backend"]) == ("cancelled", "a")
        assert line["ttft_ms"] is not None
        spine.at_rest()

    asyncio.run(main())


def test_the_log_names_the_backend_that_answered_and_not_the_one_that_lost(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", after(0.1, *WHOLE)), Telling("b", hangs())]).rule(HEDGED, shared=True)
        warm(spine, 0.01)
        await spine.whole()
        (line,) = spine.done()
        assert (line["outcome"], line["backend"]) == ("ok", "a")
        assert line["ttft_ms"] is not None
        spine.at_rest()

    asyncio.run(main())


def test_a_rescued_stream_began_when_its_caller_got_the_first_piece(tmp_path: Path) -> None:
    async def main() -> None:
        cut, good = Telling("a", says(*WHOLE[:2], Truncated("cut"))), Telling("b", after(0.3, *WHOLE))
        spine = Spine(tmp_path, [cut, good]).rule(Rules(balance="round_robin"), shared=True)
        await spine.whole()
        (line,) = spine.done()
        assert (line["backend"], line["outcome"]) == ("b", "ok")
        assert line["ttft_ms"] < 250
        spine.at_rest()

    asyncio.run(main())


def test_the_winner_of_a_race_that_is_cut_is_closed_before_its_stream_goes_on_elsewhere(tmp_path: Path) -> None:
    async def main() -> None:
        cut, third = Telling("a", cut_after(0.1)), Telling("c", hangs())
        spine = Spine(tmp_path, [cut, Telling("b", hangs()), third]).rule(HEDGED, shared=True)
        warm(spine, 0.01)
        reply = await spine.handle()
        assert reply.stream is not None
        reading = asyncio.create_task(read(reply))
        await until(lambda: third.opened == 1)
        assert cut.closed == 1
        assert spine.path.upstreams.balancer.loads()["a"].requests == 0
        reading.cancel()
        await asyncio.wait({reading})
        await reply.aclose()
        spine.at_rest()

    asyncio.run(main())


def cut_after(seconds: float) -> Tell:
    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        await asyncio.sleep(seconds)
        yield Text("one ")
        raise Truncated("cut")

    return tell


def test_a_replica_taken_out_while_a_call_waits_for_it_loses_the_call_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        busy = Telling("a", in_turn(hangs(Text("x")), says(*WHOLE)))
        spine = Spine(tmp_path, [busy])
        upstreams = spine.path.upstreams
        spine.path.gates.use(GateSettings(), {"a": 1})
        inside = await spine.handle()
        upstreams.replicas.failing("a", "no answer")
        waiting = asyncio.create_task(spine.whole())
        await until(lambda: spine.path.gates.waiting()["a"] == 1)
        backends = spine.backends
        upstreams.use({}, {})
        await inside.aclose()
        assert text_of(await waiting) == "one two three"
        spine.backends = backends
        spine.at_rest()

    asyncio.run(main())


def test_whoever_waits_for_the_only_replica_while_its_breaker_opens_is_served_as_those_who_come_later(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", in_turn(hangs(Text("x")), says(*WHOLE)))])
        spine.path.gates.use(GateSettings(), {"a": 1})
        inside = await spine.handle()
        waiting = asyncio.create_task(spine.whole())
        await until(lambda: spine.path.gates.waiting()["a"] == 1)
        break_down(spine.path.upstreams.replicas, "a")
        await inside.aclose()
        assert text_of(await waiting) == "one two three"
        spine.at_rest()

    asyncio.run(main())


def test_what_was_tried_once_and_failed_is_not_pressed_upon_a_replica_that_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        ill = Telling("a", fails(Upstream("500")))
        spine = Spine(tmp_path, [ill])
        spine.path.upstreams.retries.use(RetrySettings(backoff_s=0.2))
        call = asyncio.create_task(spine.whole())
        await until(lambda: len(spine.receipts()) == 1)
        break_down(spine.path.upstreams.replicas, "a")
        with pytest.raises(Upstream):
            await call
        assert ill.opened == 1
        spine.at_rest()

    asyncio.run(main())


def break_down(replicas: Replicas, at: str) -> None:
    for one in [replicas.enter(at) for _ in range(5)]:
        assert one is not None
        one.ended(Upstream("500"))
    assert replicas.states()[at] == 2


def test_whole_answers_tell_how_fast_a_replica_is(tmp_path: Path) -> None:
    async def main() -> None:
        quick = Bodied("a", b"{}", Usage(input=3, output=50))
        slow = Telling("b", after(0.0, *WHOLE))
        spine = Spine(tmp_path, [quick, slow]).rule(Rules(balance="round_robin"), shared=True)
        spine.gateway.routes = RouteTable(
            1, {"m": Route("m", (Target("pool", "m", replica="a"), Target("pool", "m", replica="b")))}
        )
        for _ in range(4):
            await spine.whole()
        replica = spine.path.upstreams.balancer._replicas["a"]
        assert replica._speed.answering.sure > 0
        spine.at_rest()

    asyncio.run(main())


def test_a_rest_that_a_replica_asked_for_does_not_make_it_forget(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(*WHOLE)), Telling("b", says(*WHOLE))])
        spine.rule(Rules(), shared=True)
        balancer = spine.path.upstreams.balancer
        await spine.whole()
        before = {at: replica._since for at, replica in balancer._replicas.items()}
        one = spine.path.upstreams.replicas.enter("a")
        assert one is not None
        one.ended(Overloaded("busy", status=429, retry_after=0.01))
        await asyncio.sleep(0.02)
        assert spine.path.upstreams.replicas.states()["a"] == 0
        assert {at: replica._since for at, replica in balancer._replicas.items()} == before
        spine.at_rest()

    asyncio.run(main())


def test_models_that_callers_make_up_do_not_drive_out_what_is_known_of_others(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(Finish("stop")))])
        upstreams = spine.path.upstreams
        known = upstreams.hedges("m")
        for number in range(5_000):
            upstreams.hedges(f"made-up-{number}")
            assert upstreams.hedges("m") is known

    asyncio.run(main())


def test_a_stream_that_went_on_at_a_fallback_is_told_as_one(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(*WHOLE[:1], Truncated("cut"))), Telling("b", says(*WHOLE))])
        spine.path.upstreams.retries.use(RetrySettings(attempts=1))
        assert text_of(await spine.whole()) == "one two three"
        (line,) = spine.done()
        assert (line["outcome"], line["served_level"]) == ("ok", "fallback")
        spine.at_rest()

    asyncio.run(main())


def test_where_too_many_race_already_a_call_goes_alone(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(*WHOLE)), Telling("b", says(*WHOLE))]).rule(HEDGED, shared=True)
        upstreams = spine.path.upstreams
        upstreams.tasks = Tasks(limit=2)
        races = [upstreams.tasks.spawn(asyncio.sleep(60)) for _ in range(2)]
        assert text_of(await spine.whole()) == "one two three"
        races.pop().cancel()
        await asyncio.sleep(0)
        warm(spine, 0.0)
        for backend in spine.backends.values():
            assert isinstance(backend, Telling)
            backend._tell = after(0.05, *WHOLE)
        assert text_of(await spine.whole()) == "one two three"
        await upstreams.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_gates_of_backends_that_are_gone_are_forgotten_once_they_are_empty(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(*WHOLE)), Telling("b", hangs(Text("x")))])
        await spine.whole()
        spine.gateway.routes = RouteTable(1, {"m": Route("m", (Target("b", "m"),))})
        inside = await spine.handle()
        gates = spine.path.gates
        spine.path.publish(spine.gateway.routes, {}, {})
        assert set(gates.limits()) == {"b"}, "somebody is inside"
        await inside.aclose()
        spine.path.publish(spine.gateway.routes, {}, {})
        assert not gates.limits()
        spine.at_rest()

    asyncio.run(main())


def test_whole_answers_that_take_long_are_no_silence(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Slow("a"), Slow("b")]).rule(Rules(balance="round_robin"), shared=True)
        replicas = spine.path.upstreams.replicas
        replicas._watch = WatchSettings(sample_s=0.01, no_progress_s=0.1)
        replicas.forget(["a", "b"])
        watching = asyncio.create_task(replicas.watch(lambda _: None))
        await asyncio.gather(*(spine.whole(text=f"question {number}", stream=False) for number in range(6)))
        assert len(spine.receipts()) == 6, "nothing was asked twice"
        assert replicas.states() == {"a": 0, "b": 0}
        watching.cancel()
        await asyncio.wait({watching})
        spine.at_rest()

    asyncio.run(main())


class Slow(Bodied):
    """Takes its time for a whole answer."""

    def __init__(self, name: str) -> None:
        super().__init__(name, b"{}", Usage(input=3, output=50))

    async def open(self, call: Call, target: Target) -> Answer:
        await asyncio.sleep(0.4)
        return await super().open(call, target)


def test_long_whole_answers_do_not_make_a_replica_look_slow_beside_those_that_stream(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Slow("a")])
        await spine.whole(stream=False)
        window = spine.path.upstreams.replicas._replicas["a"].conduct.window
        assert window.latency(spine.clock.monotonic())[0] == 0
        assert window.counts(spine.clock.monotonic()) == (1, 0)

    asyncio.run(main())


def test_whoever_is_turned_away_is_told_to_wait_a_moment(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(*WHOLE))])
        replicas = spine.path.upstreams.replicas
        replicas.failing("a", "no answer")
        passes = [replicas.enter("a", anyway=True) for _ in range(8)]
        with pytest.raises(Overloaded) as refused:
            await spine.whole()
        assert (refused.value.code, refused.value.retry_after) == ("backend_unavailable", 1.0)
        assert all(passes)
        spine.at_rest()

    asyncio.run(main())


def test_a_call_without_another_attempt_waits_on_at_a_replica_that_falls_silent(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", after(0.1, *WHOLE)), Telling("b", says(*WHOLE))])
        spine.rule(Rules(balance="round_robin"), shared=True)
        spine.path.upstreams.retries.use(RetrySettings(attempts=1))
        call = asyncio.create_task(spine.whole())
        await until(lambda: spine.path.upstreams.replicas.pulse("a").in_flight == 1)
        spine.path.care.failing("a", "no answer within 0.5 s")
        assert text_of(await call) == "one two three"
        assert len(spine.receipts()) == 1
        spine.at_rest()

    asyncio.run(main())

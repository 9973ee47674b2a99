"""Falling back: before the first byte only, for failures that another target may not share, within one deadline."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from headgate.core.call import Call
from headgate.core.errors import (
    BadCall,
    Bug,
    HeadgateError,
    NotFound,
    OverLimit,
    Overloaded,
    Truncated,
    Upstream,
    UpstreamTimeout,
)  # fmt: skip
from headgate.core.events import Event, Finish, Text
from headgate.core.ports import Progress
from headgate.core.rules import Rules
from headgate.core.usage import Usage
from headgate.pipeline.gate import GateSettings
from headgate.pipeline.retry_budget import RetrySettings
from tests.pipeline.spine import Bodied, Spine, Telling, fails, hangs, read, says

GOOD = says(Text("hello"), Finish("stop"), Usage(input=3, output=1))
RETRYABLE: list[HeadgateError] = [
    Upstream("broken"), UpstreamTimeout("slow"), Truncated("cut"), Overloaded("busy", status=429), Overloaded("busy"),
]  # fmt: skip
FINAL: list[HeadgateError] = [BadCall("yours"), NotFound("gone"), OverLimit("limit"), Bug("ours")]


@pytest.mark.parametrize("error", RETRYABLE, ids=lambda error: f"{type(error).__name__}-{error.status}")
def test_a_failure_before_the_first_byte_goes_to_the_next_target(tmp_path: Path, error: HeadgateError) -> None:
    async def main() -> None:
        bad, good = Telling("bad", fails(error)), Telling("good", GOOD)
        spine = Spine(tmp_path, [bad, good])
        reply = await spine.handle()
        assert bad.closed == 1, "the failed attempt's answer is closed before another one begins to be read"
        assert (b"x-headgate-backend", b"good") in reply.headers
        assert (b"x-headgate-attempts", b"2") in reply.headers
        assert await read(reply) == [Text("hello"), Finish("stop"), Usage(input=3, output=1)]
        await reply.aclose()
        assert [(r.backend, r.outcome, r.attempt) for r in spine.receipts()] == [
            ("bad", "failed", 1),
            ("good", "ok", 2),
        ]
        spine.at_rest()

    asyncio.run(main())


@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_what_another_target_would_refuse_too_is_not_tried_there(tmp_path: Path, error: HeadgateError) -> None:
    async def main() -> None:
        good = Telling("good", GOOD)
        spine = Spine(tmp_path, [Telling("bad", fails(error)), good])
        with pytest.raises(type(error)):
            await spine.handle()
        assert good.opened == 0
        spine.at_rest()

    asyncio.run(main())


def test_without_recovery_a_failure_after_the_first_byte_is_the_callers_and_nobody_else_is_asked(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        good = Telling("good", GOOD)
        spine = Spine(tmp_path, [Telling("bad", says(Text("half"), Truncated("cut"))), good]).rule(Rules(recovery=()))
        reply = await spine.handle()
        assert reply.stream is not None
        assert await anext(reply.stream) == Text("half")
        with pytest.raises(Truncated):
            await anext(reply.stream)
        await reply.aclose()
        assert good.opened == 0
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("failed", "upstream_truncated")]
        assert spine.done()[0]["outcome"] == "failed"
        spine.at_rest()

    asyncio.run(main())


def test_where_all_fail_the_last_error_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", fails(Upstream("one"))), Telling("b", fails(Overloaded("two")))])
        with pytest.raises(Overloaded, match="two"):
            await spine.handle()
        assert len(spine.receipts()) == 2
        assert len(spine.done()) == 1
        spine.at_rest()

    asyncio.run(main())


def test_one_attempt_tells_its_backend_and_no_count(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("only", GOOD)])
        reply = await spine.handle()
        names = [name for name, _ in reply.headers]
        assert (b"x-headgate-backend", b"only") in reply.headers
        assert b"x-headgate-attempts" not in names
        await reply.aclose()

    asyncio.run(main())


def test_an_empty_answer_is_no_success(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("empty", says()), Telling("good", GOOD)])
        assert Text("hello") in await spine.whole()
        assert spine.receipts()[0].code == "upstream_truncated"

    asyncio.run(main())


def test_a_backend_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("gone", GOOD), Telling("good", GOOD)])
        spine.path.upstreams.use({"good": spine.backends["good"]}, {})
        reply = await spine.handle()
        assert (b"x-headgate-backend", b"good") in reply.headers
        await reply.aclose()
        assert [(r.code, r.reason) for r in spine.receipts()] == [("client_closed", "fallback")], (
            "nothing was sent there"
        )

    asyncio.run(main())


def test_the_deadline_ends_an_attempt_that_does_not_begin_and_no_other_is_made(tmp_path: Path) -> None:
    async def main() -> None:
        good = Telling("good", GOOD)
        for slow in (Telling("slow", hangs()), Telling("shut", GOOD, hang_open=True)):
            spine = Spine(tmp_path / slow.name, [slow, good])
            with pytest.raises(UpstreamTimeout, match="x-headgate-timeout-s") as refused:
                await spine.handle(seconds=0.02)
            assert refused.value.code == "deadline_exceeded"
            assert spine.receipts()[0].outcome == "failed"
            assert good.opened == 0
            spine.at_rest()

    asyncio.run(main())


def test_the_deadline_ends_an_answer_that_never_ends_and_the_caller_is_not_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("slow", hangs(Text("one"), Text("two")))])
        with pytest.raises(UpstreamTimeout, match="before the answer was complete"):
            await spine.whole(seconds=0.05)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert [(r.outcome, r.code, r.usage.output) for r in spine.receipts()] == [("failed", "deadline_exceeded", 2)]
        assert spine.done()[0]["code"] == "deadline_exceeded"
        spine.at_rest()

    asyncio.run(main())


def test_the_deadline_also_ends_an_answer_whose_reader_is_slow(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("quick", says(Text("one"), Text("two"), Finish("stop")))])
        reply = await spine.handle(seconds=0.02)
        assert reply.stream is not None
        assert await anext(reply.stream) == Text("one")
        await asyncio.sleep(0.03)
        with pytest.raises(UpstreamTimeout):
            await anext(reply.stream)
        await reply.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_a_whole_body_is_the_answer_and_its_usage_the_receipt(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Bodied("whole", b'{"ok":1}', Usage(input=9, output=4))])
        assert await spine.whole(stream=False) == [b'{"ok":1}']
        assert [(r.outcome, r.usage) for r in spine.receipts()] == [("ok", Usage(input=9, output=4))]
        spine.at_rest()

    asyncio.run(main())


def test_a_bug_in_a_backend_is_ours_and_frees_everything(tmp_path: Path) -> None:
    async def broken(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        for _ in call.model:
            raise RuntimeError("a bug")
        yield b""

    async def main() -> None:
        spine = Spine(tmp_path, [Telling("buggy", broken)])
        with pytest.raises(RuntimeError):
            await spine.handle()
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("failed", "internal_error")]
        assert (spine.done()[0]["outcome"], spine.done()[0]["status"]) == ("failed", 500)
        spine.at_rest()

    asyncio.run(main())


def test_the_first_attempt_at_a_fallback_of_a_full_backend_is_no_retry(tmp_path: Path) -> None:
    async def main() -> None:
        first, second = Telling("a", says(Text("x"))), Telling("b", says(Text("y")))
        spine = Spine(tmp_path, [first, second])
        spine.path.gates.use(GateSettings(queue=0), {"a": 1, "b": 1})
        spine.path.upstreams.retries.use(RetrySettings(ratio=0, reserve=0))
        inside = await spine.handle()
        other = await spine.handle()
        assert (first.opened, second.opened) == (1, 1)
        assert dict(other.headers)[b"x-headgate-backend"] == b"b"
        for reply in (inside, other):
            await reply.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_a_whole_answer_frees_its_backend_before_its_caller_has_read_it(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Bodied("a", b"{}", Usage(input=1, output=1))])
        reply = await spine.handle(stream=False)
        assert spine.path.gates.active() == {"a": 0}
        assert spine.admission.gate.active == 1
        await reply.aclose()
        spine.at_rest()

    asyncio.run(main())

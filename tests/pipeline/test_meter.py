"""One receipt per attempt, one log line per call, and neither prompt nor key in any of them."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from headgate.backends.script import Script, ScriptedUsage
from headgate.core.errors import (
    Forbidden,
    HeadgateError,
    NotFound,
    OverLimit,
    Truncated,
    Unauthorized,
    Upstream,
    UpstreamTimeout,
)
from headgate.core.events import Finish, Text
from headgate.core.principal import KeyLimits, Principal
from headgate.core.usage import Usage
from headgate.ledger.prices import PriceBook, PriceTable
from tests.pipeline.spine import KEY, PROMPT, Bodied, Spine, Telling, fails, read, says, until


def test_a_finished_call_has_a_receipt_with_what_the_backend_counted(tmp_path: Path) -> None:
    async def main() -> None:
        usage = ScriptedUsage(input=1000, cached=100, output=500)
        spine = Spine(tmp_path, script=Script(text="one two", usage=usage))
        await spine.whole(user="u" * 10_000)
        (receipt,) = spine.receipts()
        assert (receipt.outcome, receipt.status, receipt.tenant, receipt.key_id) == ("ok", 200, "acme", "key_1")
        assert receipt.usage == Usage(input=1000, cached=100, output=500)
        assert receipt.cost_usd == pytest.approx(0.002)
        assert receipt.price_version == "v1"
        assert receipt.ttft_ms is not None
        assert len(receipt.user or "") == 256

    asyncio.run(main())


def test_the_receipt_is_written_before_the_answer_ends(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, script=Script(text="one"))
        reply = await spine.handle()
        assert reply.stream is not None
        seen = [len(spine.receipts()) async for _ in reply.stream]
        assert seen[-1] == 0, "not before the stream's last event was taken"
        assert len(spine.receipts()) == 1, "and before whoever reads it learns that it has ended"
        await reply.aclose()
        assert len(spine.receipts()) == 1

    asyncio.run(main())


def test_an_unknown_price_is_null_and_never_zero(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path)
        spine.meter.prices = PriceTable(PriceBook("v2"))
        await spine.whole()
        assert spine.receipts()[0].cost_usd is None
        assert spine.receipts()[0].price_version is None
        assert "cost_usd" not in spine.done()[0]
        assert b"headgate_unpriced_attempts_total" in spine.metrics.page()[0]

    asyncio.run(main())


def test_a_caller_who_leaves_pays_for_what_was_made_exactly_where_the_backend_counts(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, script=Script(tokens=100))
        reply = await spine.handle()
        assert reply.stream is not None
        for _ in range(7):
            await anext(reply.stream)
        await reply.aclose()
        (receipt,) = spine.receipts()
        assert (receipt.outcome, receipt.status, receipt.code) == ("cancelled", 499, "client_closed")
        assert (receipt.usage.output, receipt.usage.estimated) == (7, False)
        assert spine.done()[0]["outcome"] == "cancelled"
        spine.at_rest()

    asyncio.run(main())


def test_what_nobody_counted_is_estimated_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("frames", says(Text("a"), Text("b"), Truncated("cut")))])
        with pytest.raises(Truncated):
            await spine.whole()
        usage = spine.receipts()[0].usage
        assert usage.estimated
        assert usage.output == 2
        assert usage.input > 0
        assert spine.done()[0]["estimated"] is True

    asyncio.run(main())


def test_a_complete_answer_without_usage_is_estimated_too(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("frames", says(Text("a"), Finish("stop")))])
        await spine.whole()
        assert (spine.receipts()[0].outcome, spine.receipts()[0].usage.estimated) == ("ok", True)
        spine = Spine(tmp_path / "body", [Bodied("body", b"{}", None)])
        await spine.whole(stream=False)
        assert spine.receipts()[0].usage.estimated

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [60.0, 0.05], ids=["leaves", "deadline"])
def test_the_prompt_of_a_whole_answer_that_its_caller_cut_short_is_paid(tmp_path: Path, seconds: float) -> None:
    async def main() -> None:
        backend = Telling("a", says(), hang_open=True)
        spine = Spine(tmp_path, [backend])
        asking = asyncio.ensure_future(spine.handle(stream=False, seconds=seconds))
        await until(lambda: backend.opened == 1)
        if seconds > 1:
            asking.cancel()
        with pytest.raises((asyncio.CancelledError, UpstreamTimeout)):
            await asking
        (receipt,) = spine.receipts()
        assert receipt.code in {"client_closed", "deadline_exceeded"}
        assert receipt.usage.estimated
        assert (receipt.usage.input > 0, receipt.usage.output) == (True, 0)
        assert receipt.cost_nanos
        spine.at_rest()

    asyncio.run(main())


def test_an_attempt_that_never_reached_a_model_costs_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, script=Script(fail_status=503))
        with pytest.raises(HeadgateError):
            await spine.whole()
        assert spine.receipts()[0].usage == Usage()

    asyncio.run(main())


def test_the_line_of_a_call_sums_all_its_attempts(tmp_path: Path) -> None:
    async def main() -> None:
        first = Telling("first", fails(Upstream("no")), counts=True)
        second = Telling("second", says(Text("a"), Usage(input=10, output=5)))
        spine = Spine(tmp_path, [first, second])
        await spine.whole()
        line = spine.done()[0]
        assert (line["attempts"], line["backend"], line["input_tokens"], line["output_tokens"]) == (2, "second", 10, 5)
        assert line["cost_usd"] == pytest.approx(20e-6)

    asyncio.run(main())


REFUSALS = [
    ("missing key", {"credential": None}, {}, Unauthorized, 401),
    ("wrong key", {"credential": "hg-wrong"}, {}, Unauthorized, 401),
    ("unknown model", {"model": "nobody"}, {}, NotFound, 404),
    ("over a limit", {}, {"limits": KeyLimits(requests_per_minute=1)}, OverLimit, 429),
    (
        "not allowed",
        {},
        {"principal": Principal("key_1", "acme", frozenset({"inference"}), models=("x",))},
        Forbidden,
        403,
    ),
]


@pytest.mark.parametrize(("name", "call", "spine_args", "error", "status"), REFUSALS, ids=[r[0] for r in REFUSALS])
def test_a_refused_call_has_one_line_and_no_receipt(
    tmp_path: Path, name: str, call: Any, spine_args: Any, error: type[HeadgateError], status: int
) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, **spine_args)
        if name == "over a limit":
            await spine.whole()
        before = len(spine.receipts())
        with pytest.raises(error):
            await spine.whole(**call)
        line = spine.done()[-1]
        assert len(spine.done()) == before + 1
        assert (line["outcome"], line["status"]) == ("refused", status)
        assert len(spine.receipts()) == before
        spine.at_rest()

    asyncio.run(main())


def test_no_prompt_and_no_key_is_in_any_line_metric_or_receipt(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path, [Telling("a", says(Text("canary answer"), Truncated("cut")))])
        for credential in (KEY, "hg-canary-wrong-key"):
            with pytest.raises(HeadgateError):
                await spine.whole(credential=credential)
        ledger = b"".join(path.read_bytes() for path in (tmp_path / "ledger").iterdir())
        everything = spine.text + ledger.decode() + spine.metrics.page()[0].decode()
        for secret in (KEY, "hg-canary", PROMPT, "canary"):
            assert secret not in everything

    asyncio.run(main())


def test_the_callers_text_becomes_no_label(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path)
        for number in range(20):
            with pytest.raises(NotFound):
                await spine.whole(model=f"made-up-{number}")
        assert b"made-up" not in spine.metrics.page()[0]

    asyncio.run(main())


def test_an_answer_whose_receipt_cannot_be_kept_is_no_success_and_the_receipt_waits(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Spine(tmp_path)
        reply = await spine.handle()
        good, spine.journal._fd = spine.journal._fd, os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(HeadgateError) as refused:
            await read(reply)
        assert refused.value.code == "ledger_unavailable"
        await reply.aclose()
        assert (spine.done()[0]["outcome"], spine.done()[0]["status"]) == ("failed", 503)
        with pytest.raises(HeadgateError):
            await spine.handle()
        os.close(spine.journal._fd)
        spine.journal._fd = good
        await spine.whole()
        assert [receipt.outcome for receipt in spine.receipts()] == ["ok", "ok"]
        assert spine.journal.broken is None
        spine.at_rest()

    asyncio.run(main())

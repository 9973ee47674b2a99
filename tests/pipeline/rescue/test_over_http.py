"""Streams of a real upstream that fails as ordered, mended by a second one: the answer is what no fault would give."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from headgate.backends.openai import OpenAIBackend, OpenAISettings
from headgate.backends.prefill import Prefill
from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.deadline import Deadline, Timeouts
from headgate.core.errors import HeadgateError
from headgate.core.events import Stream
from headgate.core.ports import Answer
from headgate.core.rules import Way
from headgate.core.target import Target
from headgate.pipeline.rescue.rescue import rescued
from tests.pipeline.rescue.answers import BOTH, Seen, call
from tests.upstream.chaos import Chaos, chaos, honest

CLOCK = SystemClock()
TOKENS = 12
QUICK = Timeouts(connect_s=2.0, first_token_s=5.0, between_tokens_s=0.3, total_s=30.0)
SOON_SILENT = Timeouts(connect_s=2.0, first_token_s=1.5, between_tokens_s=0.3, total_s=30.0)
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def up() -> Iterator[Chaos]:
    with chaos() as running:
        yield running


class Upstreams:
    """Two targets at one upstream: the first fails as ordered, the others behave as they are told."""

    def __init__(self, base_url: str, prefill: Prefill, timeouts: Timeouts = QUICK) -> None:
        settings = OpenAISettings(name="up", base_url=base_url, timeouts=timeouts, prefill=prefill)
        self.backend = OpenAIBackend(settings, CLOCK)
        self.ways: list[Way] = []
        self._answers: list[Answer] = []

    async def open(self, for_call: Call, orders: str) -> Stream:
        answer = await self.backend.open(for_call, Target("up", f"chaos:{orders}"))
        self._answers.append(answer)
        assert answer.stream is not None
        return answer.stream

    async def whole(self, asked: Call, first: str, other: str, ways: tuple[Way, ...] = BOTH) -> Seen:
        async def another(way: Way, text: str) -> Stream | None:
            self.ways.append(way)
            given = asked if way == "replay" else self.backend.continued(asked, Target("up", "m"), text)
            return None if given is None else await self.open(given, other)

        found = Seen()
        try:
            stream = rescued(await self.open(asked, first), asked, ways, another)
            async for item in stream:
                found.take(item)
        finally:
            for answer in self._answers:
                await answer.aclose()
            await self.backend.aclose()
        return found


def asking(**fields: Any) -> Call:
    return msgspec.structs.replace(call(**fields), deadline=Deadline.after(CLOCK, 30.0))


FAULTS = ["cut", "cut_event", "cut_utf8", "reset", "bad_json", "error_event", "stall"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("prefill", "behaves"), [("vllm", "continue"), ("assistant", "refuse"), ("none", "refuse")])
def test_the_answer_is_whole_after_a_fault_at_every_event(
    up: Chaos, fault: str, prefill: Prefill, behaves: str
) -> None:
    expected = honest(MESSAGES, tokens=TOKENS).choices[0].text

    async def at(place: int) -> None:
        upstreams = Upstreams(up.base_url, prefill, SOON_SILENT if fault == "stall" else QUICK)
        asked = asking(stream_options={"include_usage": True})
        found = await upstreams.whole(
            asked, f"{fault},after={place},tokens={TOKENS}", f"tokens={TOKENS},prefill={behaves}"
        )
        assert found.choices[0].text == expected
        assert found.finishes == [0]
        assert len(found.names) == 1
        if prefill == "vllm" and upstreams.ways:
            assert upstreams.ways in (["continue"], ["replay"])

    async def main() -> None:
        if fault == "stall":
            await asyncio.gather(*map(at, (1, 2, 7)))  # they wait side by side
            return
        for place in range(1, TOKENS + 2):
            await at(place)

    asyncio.run(main())


@pytest.mark.parametrize("fields", [{"n": 3}, {"tools": [{"type": "function", "function": {"name": "look"}}]}])
def test_several_choices_and_tool_calls_are_whole_after_a_replay(up: Chaos, fields: dict[str, Any]) -> None:
    async def main() -> None:
        orders = f"tokens={TOKENS}" + (",tools=1" if "tools" in fields else "")
        undisturbed = await Upstreams(up.base_url, "none").whole(asking(**fields), orders, orders)
        for place in range(1, 30, 3):
            upstreams = Upstreams(up.base_url, "vllm")
            found = await upstreams.whole(asking(**fields), f"cut,after={place},{orders}", orders)
            assert found.choices == undisturbed.choices
            assert sorted(found.finishes) == sorted(undisturbed.finishes)

    asyncio.run(main())


def test_another_answer_is_never_joined(up: Chaos) -> None:
    async def main() -> None:
        upstreams = Upstreams(up.base_url, "none")
        with pytest.raises(HeadgateError) as raised:
            await upstreams.whole(asking(), f"cut,after=5,tokens={TOKENS}", f"tokens={TOKENS},salt=other")
        assert raised.value.code == "upstream_truncated"
        assert upstreams.ways == ["continue", "replay"]

    asyncio.run(main())


def test_what_is_sent_to_continue_is_what_the_server_wants(up: Chaos) -> None:
    async def main() -> None:
        upstreams = Upstreams(up.base_url, "vllm")
        found = await upstreams.whole(asking(max_tokens=50), f"cut,after=6,tokens={TOKENS}", f"tokens={TOKENS}")
        body = json.loads(up.last()["body"])
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False
        assert found.choices[0].text.startswith(body["messages"][-1]["content"])
        assert body["max_tokens"] < 50

    asyncio.run(main())

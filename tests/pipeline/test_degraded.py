"""What is served where no target answers: only what the route allows, named in a header, never another tenant's."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec import structs

from headgate.api.wire.openai_chat import ChatEncoder, ChatFold
from headgate.core.call import Call
from headgate.core.errors import BadCall, Bug, Failed, HeadgateError, Overloaded, Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event, Finish, Text
from headgate.core.faults import CONTENT_POLICY, CONTEXT_LENGTH
from headgate.core.ports import Answer, Progress
from headgate.core.reply import Reply
from headgate.core.rules import Degraded, Rules
from headgate.core.target import Target
from headgate.core.usage import Usage
from headgate.pipeline.kept_answers import Kept, KeptAnswers
from tests.pipeline.flying import OTHER, Flying
from tests.pipeline.spine import Bodied, Telling, completion_call, read

WHOLE: list[Event | bytes] = [Text("one"), Finish("stop"), Usage(input=3, output=1)]
BOTH = Rules(degraded=Degraded(cached_s=60, message="Come back later."))
CACHED = Rules(degraded=Degraded(cached_s=60))
MESSAGE = Rules(degraded=Degraded(message="Come back later."))
DOWN = [
    Upstream("broken"), UpstreamTimeout("slow"), Overloaded("busy"), Upstream("busy", status=429),
    Upstream("our key is bad", code="upstream_auth"), Truncated("cut"),
    UpstreamTimeout("late", code="deadline_exceeded"),
]  # fmt: skip
THEIRS = [
    BadCall("yours"), Upstream("too long", code=CONTEXT_LENGTH, status=400), Bug("ours"),
    Upstream("refused", code=CONTENT_POLICY, status=400),
]  # fmt: skip


class Weather:
    """Good until it has an error."""

    def __init__(self) -> None:
        self.error: HeadgateError | None = None
        self.after = 0
        """How many pieces come before the error."""

    async def __call__(self, call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        for number, item in enumerate(WHOLE):
            if self.error is not None and number == self.after:
                raise self.error
            yield item


class Fickle(Bodied):
    """Answers with a whole body until it has an error."""

    error: HeadgateError | None = None

    async def open(self, call: Call, target: Target) -> Answer:
        if self.error is not None:
            raise self.error
        return await super().open(call, target)


@pytest.mark.parametrize("error", DOWN, ids=lambda error: f"{type(error).__name__}-{error.status}-{error.code}")
def test_a_kept_answer_is_served_where_no_target_answers(tmp_path: Path, error: Failed) -> None:
    async def main() -> None:
        weather = Weather()
        spine = Flying(tmp_path, [Telling("a", weather)], rules=BOTH, rest_s=0.02)
        headers, first = await spine.outcome()
        assert headers[b"x-headgate-level"] == b"full"
        weather.error = error
        headers, again = await spine.outcome()
        assert again == first == WHOLE
        assert headers[b"x-headgate-level"] == b"cached"
        assert int(headers[b"age"]) < 60  # an overloaded target is waited for
        good, *failed = spine.receipts()
        assert good.outcome == "ok"
        assert {receipt.outcome for receipt in failed} == {"failed"}, "what was tried is on record as it was"
        assert [line["outcome"] for line in spine.done()] == ["ok", "ok"]
        assert b'headgate_degraded_total{level="cached"} 1.0' in spine.metrics.page()[0]
        spine.at_rest()

    asyncio.run(main())


@pytest.mark.parametrize("error", THEIRS, ids=lambda error: f"{type(error).__name__}-{error.code}")
def test_what_a_model_refuses_or_cannot_take_is_told_as_it_is(tmp_path: Path, error: HeadgateError) -> None:
    async def main() -> None:
        weather = Weather()
        spine = Flying(tmp_path, [Telling("a", weather)], rules=BOTH)
        await spine.outcome()
        weather.error = error
        with pytest.raises(type(error)):
            await spine.outcome()
        spine.at_rest()

    asyncio.run(main())


def test_a_whole_answer_is_kept_and_served_byte_for_byte(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Fickle("a", b'{"id":"1"}', Usage(input=1, output=1))
        spine = Flying(tmp_path, [backend], rules=CACHED)
        await spine.outcome(stream=False, temperature=0.7)
        backend.error = Upstream("broken")
        headers, answer = await spine.outcome(stream=False, temperature=0.7)
        assert (headers[b"x-headgate-level"], answer) == (b"cached", [b'{"id":"1"}'])
        with pytest.raises(Failed):
            await spine.outcome(stream=False, temperature=0.8)

    asyncio.run(main())


def test_the_message_stands_where_nothing_is_kept_for_streams_and_whole_answers(tmp_path: Path) -> None:
    async def main() -> None:
        weather = Weather()
        weather.error = Overloaded("busy")
        spine = Flying(tmp_path, [Telling("a", weather)], rules=BOTH, rest_s=0.02)
        headers, answer = await spine.outcome()
        assert answer == [Text("Come back later."), Finish("stop"), Usage()]
        assert headers[b"x-headgate-level"] == b"message"
        assert b"age" not in headers
        call = spine.call(stream=False, n=2)
        reply = await spine.gateway.handle(call)
        assert reply.stream is not None
        into = ChatFold("chatcmpl-1", 1, call, "f")
        async for item in reply.stream:
            assert not isinstance(item, bytes)
            into.take(item)
        await reply.aclose()
        body = json.loads(into.body())
        assert [choice["message"]["content"] for choice in body["choices"]] == ["Come back later."] * 2
        assert [choice["finish_reason"] for choice in body["choices"]] == ["stop"] * 2
        assert body["model"] == "m"
        assert body["usage"]["total_tokens"] == 0
        encoder = ChatEncoder("chatcmpl-1", 1, call, "f")
        frames = b"".join(encoder.frames(item) for item in answer if not isinstance(item, bytes))
        assert b'"content":"Come back later."' in frames
        spine.at_rest()

    asyncio.run(main())


def test_completions_get_the_message_once_for_each_prompt(tmp_path: Path) -> None:
    async def main() -> None:
        weather = Weather()
        weather.error = Overloaded("busy")
        spine = Flying(tmp_path, [Telling("a", weather)], rules=MESSAGE, rest_s=0.02)
        call = completion_call(spine.clock, prompt=["a", "b"])
        reply = await spine.gateway.handle(structs.replace(call, credential=spine.call().credential))
        assert len([item for item in await read(reply) if isinstance(item, Text)]) == 2
        await reply.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "more",
    [
        {"response_format": {"type": "json_object"}},
        {"guided_choice": ["yes", "no"]},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    ],
    ids=["json", "choice", "tool", "named"],
)
def test_a_message_is_not_given_to_a_program_that_waits_for_something_else(
    tmp_path: Path, more: dict[str, object]
) -> None:
    async def main() -> None:
        weather = Weather()
        weather.error = Overloaded("busy")
        spine = Flying(tmp_path, [Telling("a", weather)], rules=MESSAGE, rest_s=0.02)
        with pytest.raises(Overloaded):
            await spine.outcome(**more)

    asyncio.run(main())


def test_nothing_is_served_where_the_route_has_no_rule_or_the_call_its_own_key(tmp_path: Path) -> None:
    async def main() -> None:
        weather = Weather()
        spine = Flying(tmp_path, [Telling("a", weather)], rules=Rules(), rest_s=0.02)
        await spine.outcome()
        assert len(spine.degraded.kept) == 0
        weather.error = Overloaded("busy")
        with pytest.raises(Overloaded):
            await spine.outcome()
        spine.at_rest()
        other = Flying(tmp_path / "other", [Telling("a", weather)], rules=MESSAGE, rest_s=0.02)
        with pytest.raises(Overloaded):
            await other.gateway.handle(structs.replace(other.call(), idempotency_key="k"))
        other.at_rest()

    asyncio.run(main())


def test_another_tenants_answer_is_never_served(tmp_path: Path) -> None:
    async def main() -> None:
        weather = Weather()
        spine = Flying(tmp_path, [Telling("a", weather)], rules=CACHED)
        await spine.outcome()
        weather.error = Upstream("broken")
        with pytest.raises(Upstream):
            await spine.outcome(credential=OTHER)
        assert (await spine.outcome())[1] == WHOLE

    asyncio.run(main())


def test_only_complete_answers_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        weather = Weather()
        spine = Flying(tmp_path, [Telling("a", weather)], rules=Rules(degraded=CACHED.degraded, recovery=()))
        weather.error, weather.after = Truncated("cut"), 1
        reply = await spine.handle()
        with pytest.raises(Truncated) as caught:
            await read(reply)
        await reply.aclose(caught.value)
        weather.error = None
        reply = await spine.handle()
        assert reply.stream is not None
        await anext(reply.stream)
        await reply.aclose()
        assert len(spine.degraded.kept) == 0
        weather.error, weather.after = Upstream("broken"), 0
        with pytest.raises(Upstream):
            await spine.outcome()
        spine.at_rest()

    asyncio.run(main())


def test_after_the_first_byte_nothing_is_put_in_the_answers_place(tmp_path: Path) -> None:
    async def main() -> None:
        weather = Weather()
        spine = Flying(
            tmp_path, [Telling("a", weather)], rules=Rules(degraded=Degraded(cached_s=60, message="x"), recovery=())
        )
        await spine.outcome()
        weather.error, weather.after = Truncated("cut"), 1
        reply = await spine.handle()
        assert reply.stream is not None
        assert await anext(reply.stream) == Text("one")
        with pytest.raises(Truncated) as caught:
            await anext(reply.stream)
        await reply.aclose(caught.value)
        story = spine.meter.begin(spine.call())
        story.principal = spine.principal
        lease = await spine.admission.admit(spine.principal, spine.call(), spine.gateway._targets)
        begun = Reply()
        begun.body = b"{}"
        assert spine.degraded.serve(spine.rules, lease, begun, story, Upstream("broken")) is None
        assert spine.degraded.serve(spine.rules, lease, Reply(), story, Upstream("broken")) == "message"
        spine.admission.leave(lease, 0)

    asyncio.run(main())


def test_a_very_long_answer_passes_and_is_not_kept(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Flying(tmp_path, [Bodied("a", b"x" * 1_100_000, None)], rules=CACHED)
        assert len((await spine.outcome(stream=False))[1]) == 1
        assert (len(spine.degraded.kept), spine.degraded.kept.used) == (0, 0)

    asyncio.run(main())


def kept(at: float, size: int = 100, seconds: float = 60.0) -> Kept:
    return Kept(at, at + seconds, size, b"x")


def test_what_is_kept_is_bounded_and_the_oldest_go_first() -> None:
    answers = KeptAnswers(1_000)
    for number in range(25):
        answers.put(b"%d" % number, kept(float(number)))
        assert answers.used <= 1_000
    assert len(answers) == 10
    assert answers.get(b"14", 25.0, 60.0) is None
    assert answers.get(b"15", 25.0, 60.0) is not None
    answers.put(b"15", kept(26.0, 1_001))
    assert answers.get(b"15", 26.0, 60.0) is None, "a newer one that is too large ends the older one too"
    assert answers.used == 900


def test_what_is_too_old_is_not_served_and_does_not_stay() -> None:
    answers = KeptAnswers(1_000)
    answers.put(b"a", kept(0.0))
    assert answers.get(b"a", 59.0, 60.0) is not None
    assert answers.get(b"a", 59.0, 30.0) is None, "a rule that was tightened counts at once"
    assert answers.get(b"a", 60.0, 1_000.0) is None
    answers.put(b"b", kept(61.0))
    assert (len(answers), answers.used) == (1, 100)
    answers.put(b"b", kept(62.0, 50))
    assert (len(answers), answers.used) == (1, 50)

"""A model that is given the beginning goes on from there; where it refuses, the next way is tried."""

import asyncio
from typing import Any

import pytest

from headgate.core.errors import BadCall, HeadgateError, Overloaded, Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event, Finish, Reasoning, Text, ToolDelta
from headgate.core.usage import Usage
from tests.pipeline.rescue.answers import BOTH, CUT, Attempts, Choice, Item, Source, call, frame, framed, seen, told

TEXT = "The quick 🦊 jumps over the lazy dog. The quick 🦊 sleeps."
WHOLE = Choice(text=TEXT)


def rest(items: list[Event], place: int) -> str:
    return TEXT[len("".join(item.text for item in items[:place] if isinstance(item, Text))) :]


def ended(*texts: str, used: Usage | None = None) -> list[Event]:
    return [*(Text(text) for text in texts), Finish("stop"), used or Usage(1, output=1)]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("other_raw", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_the_answer_is_whole_wherever_it_was_cut(raw: bool, other_raw: bool, repeats: bool) -> None:
    async def main() -> None:
        events = told([WHOLE], 5)
        for place in range(1, len(events) - 1):
            start: list[Item] = framed(events[:place], "first", place) if raw else list(events[:place])
            sent = TEXT.removesuffix(rest(events, place))
            if repeats and len(sent) < 8:
                continue
            more = [*told([Choice(text=(sent if repeats else "") + rest(events, place))], place)]
            other: list[Item] = framed(more, "second", place) if other_raw else list(more)
            another = Attempts(Source(other))
            found, error = await seen(Source(start, CUT), call(), another)
            assert error is None
            assert another.asked == [("continue", sent)]
            assert found.choices == {0: WHOLE}
            assert found.finishes == [0]
            assert found.names == ({"first 5 model-of-first"} if raw else set())
            assert found.roles == ([0] if raw else [])

    asyncio.run(main())


def test_where_the_model_refuses_the_next_way_is_tried() -> None:
    async def main() -> None:
        events = told([WHOLE], 1)
        for refusal in (BadCall("no prefill here"), None):
            another = Attempts(refusal, Source(told([WHOLE], 2)))
            found, error = await seen(Source(events[:6], CUT), call(), another)
            assert error is None
            assert [way for way, _ in another.asked] == ["continue", "replay"]
            assert found.choices == {0: WHOLE}

    asyncio.run(main())


def test_a_target_that_fails_before_its_beginning_is_followed_by_another_of_the_same_way() -> None:
    async def main() -> None:
        events = told([WHOLE], 1)
        broken = Source([], Truncated("again"))
        another = Attempts(Overloaded("full"), Upstream("gone", code="upstream_auth"), broken, Source(ended("!")))
        found, error = await seen(Source(events[:6], CUT), call(), another)
        assert error is None
        assert [way for way, _ in another.asked] == ["continue"] * 4
        assert found.choices[0].text.endswith("!")

    asyncio.run(main())


def test_a_beginning_that_was_repeated_rightly_is_kept() -> None:
    async def main() -> None:
        for sent, more in (("ha ha ha ", "ha ha ha ha"), ("No", "No, never"), ("Tick tock, ", "Tick again")):
            found, error = await seen(Source([Text(sent)], CUT), call(), Attempts(Source(ended(more[:2], more[2:]))))
            assert error is None
            assert found.choices[0].text == sent + more

    asyncio.run(main())


def test_a_server_that_began_anew_and_ended_early_is_no_continuation() -> None:
    async def main() -> None:
        events = told([WHOLE], 1)
        anew = Source([Text(TEXT[:10]), Finish("length"), Usage(1)])
        found, error = await seen(Source(events[:10], CUT), call(), Attempts(anew, Source(told([WHOLE], 9))))
        assert error is None
        assert found.choices == {0: WHOLE}

    asyncio.run(main())


SENT: list[Event] = [Text("Some text of ours")]


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        (SENT, {"n": 2}),
        (SENT, {"logprobs": True}),
        (SENT, {"response_format": {"type": "json_object"}}),
        (SENT, {"structured_outputs": {"regex": "a+"}}),
        ([Reasoning("hm"), *SENT], {}),
        ([*SENT, ToolDelta("{", 0, "c", "look")], {}),
        ([Reasoning("hm")], {}),
    ],
)
def test_what_a_model_could_not_go_on_with_is_replayed(sent: list[Event], fields: dict[str, Any]) -> None:
    async def main() -> None:
        another = Attempts()
        _, error = await seen(Source(sent, CUT), call(**fields), another)
        assert error is CUT
        assert another.asked == [("replay", "")]

    asyncio.run(main())


def test_before_anything_is_said_any_answer_will_do() -> None:
    async def main() -> None:
        role = frame({"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}, "x")
        nameless = frame(None, "", prompt_filter_results=[])
        for first in (role, nameless):
            another = Attempts(Source(framed(ended("Hello"), "second")))
            found, error = await seen(Source([first], CUT), call(), another, ("continue",))
            assert error is None
            assert another.asked == [("replay", "")]
            assert found.choices[0].text == "Hello"
            assert found.roles == [0]

    asyncio.run(main())


def test_one_continuation_after_another() -> None:
    async def main() -> None:
        another = Attempts(
            Source([Text("c"), Text("d")], UpstreamTimeout("stalled")), Source([Text("e")], CUT), Source(ended("f"))
        )
        found, error = await seen(Source([Text("a"), Text("b")], CUT), call(), another)
        assert error is None
        assert [text for _, text in another.asked] == ["ab", "abcd", "abcde"]
        assert found.choices[0].text == "abcdef"

    asyncio.run(main())


def test_the_latest_break_is_the_error_where_nothing_helps_any_more() -> None:
    async def main() -> None:
        stalled = UpstreamTimeout("stalled")
        found, error = await seen(Source([Text("a")], CUT), call(), Attempts(Source([Text("b")], stalled)))
        assert error is stalled
        assert found.choices[0].text == "ab"
        assert found.finishes == []

    asyncio.run(main())


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("other_raw", [True, False])
def test_the_caller_is_told_the_first_prompt_and_the_whole_answer(raw: bool, other_raw: bool) -> None:
    async def main() -> None:
        asked = call(stream_options={"include_usage": True})
        begun: list[Event] = [Text("One "), Text("two "), Text("three ")]
        more = ended("four", used=Usage(input=13, cached=12, output=2))
        first: list[Item] = framed(begun, "first") if raw else list(begun)
        other: list[Item] = framed(more, "second", usage=True) if other_raw else list(more)
        found, error = await seen(Source(first, CUT), asked, Attempts(Source(other)))
        assert error is None
        (used,) = found.usage
        if raw:
            assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (10, 5, 15)
        else:
            assert used == Usage(input=10, cached=10, output=5)

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [
        BadCall("not that", code="content_filter"),
        BadCall("wrong"),
        UpstreamTimeout("over", code="deadline_exceeded"),
        Overloaded("no receipt", code="ledger_unavailable"),
        Upstream("no", code="upstream_auth"),
    ],
)
def test_what_no_other_attempt_may_mend_is_raised_as_it_is(error: HeadgateError) -> None:
    async def main() -> None:
        another = Attempts(Source(ended("more")))
        for items in (SENT, [*SENT, Finish("stop")]):
            _, raised = await seen(Source(items, error), call(), another)
            assert raised is error
        assert another.asked == []

    asyncio.run(main())


def test_a_refusal_for_the_contents_sake_is_not_shopped_around() -> None:
    async def main() -> None:
        refusal = BadCall("not that", code="content_filter")
        another = Attempts(refusal, Source(told([WHOLE], 1)))
        _, error = await seen(Source(told([WHOLE], 1)[:5], CUT), call(), another)
        assert error is CUT
        assert len(another.asked) == 1

    asyncio.run(main())


def test_attempts_have_an_end_even_where_nobody_counts_them() -> None:
    async def main() -> None:
        another = Attempts(*(Source([], CUT) for _ in range(100)))
        _, error = await seen(Source(SENT, CUT), call(), another, BOTH)
        assert error is CUT
        assert len(another.asked) == 16

    asyncio.run(main())


def test_completions_go_on_after_their_prompt() -> None:
    async def main() -> None:
        start = framed([Text("upon a "), Text("time")], "first", chat=False)
        another = Attempts(Source(framed(ended(" there"), "second", chat=False)))
        found, error = await seen(Source(start, CUT), call("completion"), another)
        assert error is None
        assert another.asked == [("continue", "upon a time")]
        assert found.choices[0].text == "upon a time there"
        assert found.names == {"first 5 model-of-first"}

    asyncio.run(main())


def test_a_server_that_tells_the_role_with_every_piece_tells_it_once() -> None:
    async def main() -> None:
        def said(text: str, name: str) -> bytes:
            choice = {"index": 0, "delta": {"role": "assistant", "content": text, "odd": 1}, "finish_reason": None}
            return frame(choice, name)

        end: list[Item] = [frame({"index": 0, "delta": {}, "finish_reason": "stop"}, "other"), Finish("stop")]
        replay = Source([*(said(one, "other") for one in "abc"), *end])
        for another in (Attempts(None, replay), Attempts(Source([said("c", "other"), *end]))):
            found, error = await seen(Source([said("a", "first"), said("b", "first")], CUT), call(), another)
            assert error is None
            assert found.choices[0].text == "abc"
            assert found.roles == [0, 0]  # as the first server told it
            assert found.names == {"first 5 model-of-first"}

    asyncio.run(main())

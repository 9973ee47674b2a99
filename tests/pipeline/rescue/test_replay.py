"""A stream that is cut anywhere is whole again after a replay, or its error stands."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.core.events import Event, Finish, Reasoning, Text, TokenLogprob, ToolDelta
from headgate.core.usage import Usage
from headgate.pipeline.rescue.onward import WAITING_BYTES_MAX
from headgate.pipeline.rescue.rescue import rescued
from tests.pipeline.rescue.answers import CUT, Attempts, Choice, Item, Seen, Source, call, frame, framed, seen, told

WORDS = st.text(st.sampled_from('ab é🌇👩‍👧\u0301\n"\\{}'), max_size=14)
CHOICES = st.builds(
    Choice,
    reasoning=WORDS,
    text=WORDS,
    tools=st.dictionaries(st.integers(0, 2), st.tuples(st.sampled_from(["look", "find"]), WORDS), max_size=2),
    reason=st.sampled_from(["stop", "length", "tool_calls"]),
)


def plain(choices: list[Choice]) -> dict[int, Choice]:
    return dict(enumerate(choices))


async def cut_everywhere(choices: list[Choice], seeds: tuple[int, int], forms: tuple[bool, bool], usage: bool) -> None:
    asked = call(n=len(choices), stream_options={"include_usage": usage})
    shapes: list[list[Item]] = []
    for seed, raw, name in zip(seeds, forms, ("first", "second"), strict=True):
        events = told(choices, seed)
        shapes.append(framed(events, name, seed, usage=usage) if raw else list(events))
    one, two = shapes
    for place in range(1, len(one) + 1):
        first, second = Source(one[:place], CUT), Source(two)
        another = Attempts(second)
        found, error = await seen(first, asked, another, ("replay",))
        assert error is None
        assert found.choices == plain(choices)
        assert sorted(found.finishes) == list(range(len(choices)))
        assert found.raw is forms[0]
        assert all(len(ids) == 1 for ids in found.ids.values())
        if forms[0]:
            assert found.names == {"first 5 model-of-first"}
            assert sorted(found.roles) == list(range(len(choices)))
            assert len(found.usage) == int(usage and (bool(another.asked) or place >= len(one) - 1))
        assert first.ended
        assert second.ended or not another.asked


FORMS = st.tuples(st.booleans(), st.booleans())
SEEDS = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))


@settings(max_examples=40, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=3), SEEDS, FORMS, st.booleans())
def test_a_replay_gives_the_whole_answer_wherever_it_was_cut(
    choices: list[Choice], seeds: tuple[int, int], forms: tuple[bool, bool], usage: bool
) -> None:
    asyncio.run(cut_everywhere(choices, seeds, forms, usage))


@pytest.mark.prove
@settings(max_examples=1500, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=3), SEEDS, FORMS, st.booleans())
def test_a_replay_gives_the_whole_answer_wherever_it_was_cut_many_times(
    choices: list[Choice], seeds: tuple[int, int], forms: tuple[bool, bool], usage: bool
) -> None:
    asyncio.run(cut_everywhere(choices, seeds, forms, usage))


def begins(whole: Choice, part: Choice) -> bool:
    tools = all(
        whole.tools[at][0].startswith(name) and whole.tools[at][1].startswith(text)
        for at, (name, text) in part.tools.items()
    )
    return whole.text.startswith(part.text) and whole.reasoning.startswith(part.reasoning) and tools


@settings(max_examples=150, deadline=None)
@given(CHOICES, CHOICES, SEEDS, FORMS, st.integers(1, 30))
def test_an_answer_that_differs_is_never_joined(
    choice: Choice, other: Choice, seeds: tuple[int, int], forms: tuple[bool, bool], place: int
) -> None:
    async def main() -> None:
        one, two = told([choice], seeds[0]), told([other], seeds[1])
        first: list[Item] = framed(one, "first", seeds[0]) if forms[0] else list(one)
        second: list[Item] = framed(two, "second", seeds[1]) if forms[1] else list(two)
        sent = Seen()
        for item in first[:place]:
            sent.take(item)
        found, error = await seen(Source(first[:place], CUT), call(), Attempts(Source(second)), ("replay",))
        if error is not None:
            assert error is CUT
            assert found.choices == sent.choices
        else:
            assert found.choices[0] in (choice, other)

    asyncio.run(main())


def test_an_answer_that_differs_is_closed_at_once_and_the_error_stands() -> None:
    async def main() -> None:
        events: list[Event] = [Text("one "), Text("two "), Text("three"), Finish("stop"), Usage(1)]
        other = Source([Text("one"), Text(" TWO "), Text("three"), Finish("stop"), Usage(1)])
        found, error = await seen(Source(events[:2], CUT), call(), Attempts(other), ("replay",))
        assert error is CUT
        assert found.choices[0].text == "one two "
        assert other.ended
        assert other.given == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    "other",
    [
        [ToolDelta('{"a":1', 0, "c2", "other"), Finish("tool_calls")],
        [Text("hm"), Finish("stop")],
        [ToolDelta("", 0, "c2", "look"), Finish("tool_calls")],
        [ToolDelta('{"a":2', 0, "c2", "look")],
        [],
    ],
)
def test_another_tool_or_other_arguments_are_another_answer(other: list[Event]) -> None:
    async def main() -> None:
        sent: list[Item] = [ToolDelta("", 0, "c1", "look"), ToolDelta('{"a":1')]
        found, error = await seen(Source(sent, CUT), call(), Attempts(Source(other)), ("replay",))
        assert error is CUT
        assert found.choices[0].tools == {0: ("look", '{"a":1')}
        assert found.ids == {(0, 0): ["c1"]}

    asyncio.run(main())


def test_cuts_one_after_another_are_all_mended() -> None:
    async def main() -> None:
        choices = [Choice(text="The quick 🦊 jumps over the lazy dog."), Choice(text="Second", reasoning="Why?")]
        rng = random.Random(7)
        attempts: list[Any] = []
        for number in range(6):
            events = told(choices, number)
            items: list[Item] = framed(events, f"n{number}", number) if number % 2 else list(events)
            attempts.append(Source(items[: 3 * number + rng.randint(1, 3)], CUT))
        attempts.append(Source(told(choices, 99)))
        for first in (Source(framed(told(choices, 50), "first", 50)[:2], CUT), Source(told(choices, 51)[:2], CUT)):
            found, error = await seen(first, call(n=2), Attempts(*attempts), ("replay",))
            assert error is None
            assert found.choices == plain(choices)
            attempts = [Source(told(choices, number)[: 2 * number], CUT) for number in range(1, 8)]
            attempts.append(Source(framed(told(choices, 98), "last", 98)))

    asyncio.run(main())


def test_an_answer_of_which_only_the_end_is_missing_needs_no_other_attempt() -> None:
    async def main() -> None:
        items = framed(told([Choice(text="All of it")], 1), "first")
        another = Attempts()
        found, error = await seen(Source(items[:-1], CUT), call(), another)
        assert error is None
        assert found.choices[0].text == "All of it"
        assert another.asked == []

    asyncio.run(main())


def test_completions_are_mended_in_their_own_form() -> None:
    async def main() -> None:
        choice = Choice(text="upon a time 🏰 there was")
        one, two = told([choice], 3), told([choice], 4)
        for other in (framed(two, "second", chat=False), list(two)):
            whole = framed(one, "first", chat=False)
            for place in range(1, len(whole)):
                asked = call("completion")
                found, error = await seen(Source(whole[:place], CUT), asked, Attempts(Source(other)), ("replay",))
                assert error is None
                assert found.choices[0] == choice
                assert found.roles == []
                assert found.names == {"first 5 model-of-first"}

    asyncio.run(main())


def test_frames_after_the_border_keep_what_headgate_does_not_know() -> None:
    async def main() -> None:
        def said(text: str) -> bytes:
            logprobs = {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}]}
            choice = {"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}
            return frame(choice, "x", odd=text).replace(b", ", b",").replace(b": ", b":").replace(b"data:", b"data: ")

        end = frame({"index": 0, "delta": {}, "finish_reason": "stop"}, "x")
        first = Source([said("a"), said("b")], CUT)
        second = Source([said("a"), said("b"), said("c"), end, Finish("stop"), Usage(1)])
        asked = call(logprobs=True)
        got = [item async for item in rescued(first.stream, asked, ("replay",), Attempts(second))]
        assert got[2] == said("c")
        assert len(got) == 6

    asyncio.run(main())


def test_reasoning_keeps_the_name_that_the_first_server_gave_it() -> None:
    async def main() -> None:
        first = frame({"index": 0, "delta": {"role": "assistant", "reasoning": "Let "}, "finish_reason": None}, "x")
        events: list[Item] = [Reasoning("Let me"), Text("Yes"), Finish("stop"), Usage(1)]
        found, error = await seen(Source([first], CUT), call(), Attempts(Source(events)), ("replay",))
        assert error is None
        assert found.choices[0].text == "Yes"
        assert found.choices[0].reasoning == ""  # `reasoning`, not `reasoning_content`

    asyncio.run(main())


def test_log_probabilities_are_joined_in_the_same_form_only() -> None:
    async def main() -> None:
        def token(text: str) -> TokenLogprob:
            return TokenLogprob(text, -0.5, tuple(text.encode()))

        first: list[Item] = [Text("ab", 0, (token("ab"),))]
        other: list[Item] = [Text("a", 0, (token("a"),)), Text("bcd", 0, (token("b"), token("cd"))), Finish("stop")]
        got = [
            item
            async for item in rescued(
                Source(first, CUT).stream, call(logprobs=True), ("replay",), Attempts(Source(other))
            )
        ]
        assert got == [*first, Text("cd", 0, (token("cd"),)), Finish("stop")]
        framed_first = Source(framed([Text("ab")], "first"), CUT)
        for begun, then in ((framed_first, other), (Source(first, CUT), framed([Text("abc"), Finish("stop")], "x"))):
            found, error = await seen(begun, call(logprobs=True), Attempts(Source(then)), ("replay",))
            assert error is CUT
            assert found.choices[0].text == "ab"

    asyncio.run(main())


def test_one_choice_far_ahead_of_another_is_not_kept_without_bound() -> None:
    async def main() -> None:
        long: list[Item] = [Text("x" * 500, 0)] * (WAITING_BYTES_MAX // 500 + 10)
        other = Source([Text("b", 0), *long, Text("a", 1)])
        found, error = await seen(Source([Text("b", 0), Text("a", 1)], CUT), call(n=2), Attempts(other), ("replay",))
        assert error is CUT
        assert {index: choice.text for index, choice in found.choices.items()} == {0: "b", 1: "a"}
        assert other.ended

    asyncio.run(main())


def test_a_choice_that_had_ended_does_not_go_on() -> None:
    async def main() -> None:
        sent: list[Item] = [Text("a", 0), Finish("stop", 0), Text("b", 1)]
        late: list[Item] = [Text("a", 0), Text("bc", 1), Text("x", 0), Finish("stop", 0), Finish("stop", 1)]
        for other, one in (([Text("ax", 0), Text("bc", 1)], "b"), (late, "bc"), ([ToolDelta("", 0, "c", "f")], "b")):
            found, error = await seen(Source(sent, CUT), call(n=2), Attempts(Source(other)), ("replay",))
            assert error is CUT
            assert {index: choice.text for index, choice in found.choices.items()} == {0: "a", 1: one}
            assert found.finishes == [0]

    asyncio.run(main())

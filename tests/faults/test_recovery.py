"""A stream that breaks at any event is the undisturbed stream to its caller, to the byte, by each way there is."""

import asyncio
import traceback
from collections.abc import Iterator, Sequence

import pytest

from tests.faults.caller import Told
from tests.faults.recovery import EVENTS, FAULTS, REASONS, WAYS, Broken, Stage, Way, stage
from tests.faults.stories import story_of

RESUMABLE = {"x-headgate-resumable": "true"}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("recovery")) as standing:
        yield standing


def checked(calls: Sequence[Broken], found: Sequence[Told]) -> None:
    wrong = []
    for call, one in zip(calls, found, strict=True):
        try:
            call.check(one)
        except AssertionError as error:
            broken = traceback.extract_tb(error.__traceback__)[-1].line
            wrong.append(f"{call}: {error} {broken} {one.usage}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("way", WAYS)
def test_the_answer_is_whole_after_every_fault_at_every_event(standing: Stage, way: Way) -> None:
    calls = [Broken(fault, after, way) for fault in FAULTS for after in range(EVENTS + 1)]
    checked(calls, standing.asked(calls))


@pytest.mark.parametrize("way", WAYS)
def test_the_ledger_says_which_way_it_went_and_every_attempt_is_paid_once(standing: Stage, way: Way) -> None:
    for after in (2, 9, 20):
        call = Broken("cut", after, way)
        (found,) = standing.asked([call])
        call.check(found)
        story = story_of(standing.live, found.call_id)
        attempts = story["attempts"]
        assert [attempt["reason"] for attempt in attempts] == REASONS[way]
        assert [attempt["outcome"] for attempt in attempts] == ["failed"] * (len(attempts) - 1) + ["ok"]
        assert len({attempt["id"] for attempt in attempts}) == len(attempts)
        right = call.undisturbed
        written = attempts[-1]["output_tokens"]
        assert written == right.completion_tokens - (after - 1 if way == "continue" else 0)
        assert attempts[0]["output_tokens"] == after - 1, "words that came before the cut"


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("fault", ["cut", "cut_utf8", "error_event"])
def test_several_choices_and_tool_calls_are_whole(standing: Stage, fault: str, usage: bool) -> None:
    calls = [Broken(fault, after, n=2, usage=usage) for after in range(48)]
    calls += [Broken(fault, after, tools=2, usage=usage) for after in range(20)]
    checked(calls, standing.asked(calls))


@pytest.mark.parametrize("fault", ["cut", "cut_utf8", "reset"])
def test_completions_are_whole(standing: Stage, fault: str) -> None:
    calls = [Broken(fault, after, completion=True) for after in range(EVENTS)]
    checked(calls, standing.asked(calls))


def test_a_rescued_stream_can_be_resumed_anywhere_and_gives_the_same_frames(standing: Stage) -> None:
    async def main() -> None:
        for way in WAYS:
            call = Broken("cut", 8, way)
            whole = await standing.ask(call, RESUMABLE)
            call.check(whole)
            name = whole.headers["x-headgate-stream"]
            assert whole.ids == [f"{name}:{place}" for place in range(1, len(whole.ids) + 1)]
            for seen in range(1, len(whole.ids)):
                rest = await standing.ask(call, RESUMABLE | {"last-event-id": f"{name}:{seen}"})
                assert rest.headers["x-headgate-resumed"] == "true"
                assert rest.frames == whole.frames[seen:]

    asyncio.run(main())


def test_all_is_given_back(standing: Stage) -> None:
    standing.live.settle()
    for upstream in standing.upstreams:
        upstream.idle()
    assert standing.live.events("bug") == []

import asyncio
import json
from typing import Any

import msgspec
import pytest

from headgate.backends.scripted import ScriptedBackend
from headgate.backends.smallest import smallest_instance
from headgate.core.errors import BadCall, HeadgateError, Overloaded, Truncated, Upstream
from headgate.core.events import Finish, Reasoning, Text, ToolDelta
from headgate.core.usage import Usage
from tests.backends.calls import CLOCK, call, collect, target


class JumpingClock:
    """Time passes only in `sleep`, and at once."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds
        await asyncio.sleep(0)


def events_of(
    script: dict[str, Any] | None = None, model: str = "scripted", clock: Any = CLOCK, **fields: Any
) -> tuple[list[Any], HeadgateError | None]:
    async def main() -> tuple[list[Any], HeadgateError | None]:
        backend = ScriptedBackend(clock)
        if script is not None:
            fields["metadata"] = {"script": json.dumps(script)}
        answer = await backend.open(call(model, **fields), target(model))
        _, events, error = await collect(answer)
        assert backend.open_answers == 0
        return events, error

    return asyncio.run(main())


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def test_it_echoes_the_last_user_message_and_says_what_it_is() -> None:
    events, error = events_of()
    assert error is None
    assert text_of(events) == "Good evening, Zürich 🌇"
    assert events[-2] == Finish("stop")
    assert isinstance(events[-1], Usage)
    models = asyncio.run(ScriptedBackend(CLOCK).models())
    assert [(model.id, model.owned_by) for model in models] == [("scripted", "scripted")]


@pytest.mark.parametrize("text", [" two  blanks ", "", "line\nline", "a"])
def test_the_words_of_a_text_are_the_text_again(text: str) -> None:
    events, _ = events_of({"text": text})
    assert text_of(events) == text


def test_a_demanded_tool_is_called_with_the_smallest_arguments() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        events, error = events_of(tools=tools, tool_choice=choice)
        assert error is None
        deltas = [event for event in events if isinstance(event, ToolDelta)]
        assert [delta.name for delta in deltas] == ["weather", None]
        assert json.loads("".join(delta.arguments for delta in deltas)) == {"city": ""}
        assert Finish("tool_calls") in events
    events, _ = events_of(tools=tools)
    assert text_of(events)


def test_a_scripted_tool_call_is_told_as_given() -> None:
    events, _ = events_of({"tool": "add", "arguments": {"a": 1}})
    assert json.loads("".join(event.arguments for event in events if isinstance(event, ToolDelta))) == {"a": 1}


def test_a_schema_is_filled_with_its_smallest_instance() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}, "required": ["n"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    events, _ = events_of(response_format=wanted)
    assert json.loads(text_of(events)) == {"n": 3}


def test_tokens_are_paced_by_the_clock_it_was_given() -> None:
    clock = JumpingClock()
    events, error = events_of(model="scripted:tokens=11,rate=2,first_s=3", clock=clock)
    assert error is None
    assert sum(isinstance(event, Text) for event in events) == 11
    assert clock.at == 3 + 10 / 2
    assert events[-1].output == 11


def test_choices_limits_stops_reasoning_and_usage_are_obeyed() -> None:
    events, _ = events_of({"tokens": 5, "usage": {"input": 3, "output": 9, "cached": 1}}, n=2, max_tokens=2)
    assert sorted(event.index for event in events if isinstance(event, Finish)) == [0, 1]
    assert {event.reason for event in events if isinstance(event, Finish)} == {"length"}
    assert events[-1] == Usage(input=3, cached=1, output=9)
    events, _ = events_of({"text": "one two three", "reasoning": "hm hm"}, stop=["two"])
    assert text_of(events) == "one "
    assert "".join(event.text for event in events if isinstance(event, Reasoning)) == "hm hm"


@pytest.mark.parametrize(("status", "kind"), [(400, BadCall), (429, Overloaded), (503, Overloaded), (500, Upstream)])
def test_it_fails_with_a_status_before_the_answer_or_within(status: int, kind: type[HeadgateError]) -> None:
    with pytest.raises(kind) as failed:
        events_of({"fail_status": status})
    assert failed.value.status == status
    events, error = events_of({"fail_status": status, "fail_at": 2, "tokens": 5})
    assert type(error) is kind
    assert sum(isinstance(event, Text) for event in events) == 2
    assert not any(isinstance(event, Finish | Usage) for event in events)


def test_it_cuts_its_answer_and_it_never_finishes() -> None:
    _, error = events_of({"fail_at": 1, "tokens": 5})
    assert type(error) is Truncated

    async def main() -> None:
        backend = ScriptedBackend(CLOCK)
        answer = await backend.open(call("scripted:never_finish,tokens=1"), target("scripted:never_finish,tokens=1"))
        assert answer.stream is not None
        assert isinstance(await answer.stream.__anext__(), Text)
        waiting = asyncio.ensure_future(answer.stream.__anext__())
        await asyncio.sleep(0)
        assert backend.open_answers == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await answer.aclose()
        assert backend.open_answers == 0

    asyncio.run(main())


@pytest.mark.parametrize("script", ['{"tokens":-1}', '{"nonsense":1}', "{", "null"])
def test_a_script_that_cannot_be_read_is_the_caller_s_fault(script: str) -> None:
    async def main() -> None:
        with pytest.raises(BadCall):
            await ScriptedBackend(CLOCK).open(call(metadata={"script": script}), target("scripted"))

    asyncio.run(main())


def test_a_system_message_can_hold_the_script() -> None:
    messages = [{"role": "system", "content": 'script:{"text":"as told"}'}, {"role": "user", "content": "x"}]
    events, _ = events_of(messages=messages)
    assert text_of(events) == "as told"


def test_embeddings_are_of_length_one_and_the_same_for_the_same_text() -> None:
    async def main() -> None:
        backend = ScriptedBackend(CLOCK)
        asked = call(operation="embedding", input=["a", "b", "a"], dimensions=4)
        answer = await backend.open(asked, target("scripted"))
        found = [entry["embedding"] for entry in msgspec.json.decode(answer.body or b"")["data"]]
        assert found[0] == found[2] != found[1]
        assert all(abs(sum(weight * weight for weight in vector) - 1) < 1e-4 for vector in found)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": None}, None),
        ({"type": ["string", "null"]}, None),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"type": "number", "exclusiveMinimum": 1}, 2),
        ({"type": "integer", "minimum": 4, "multipleOf": 3}, 6),
        ({"type": "integer", "maximum": -2}, -2),
        ({"anyOf": [{"$ref": "#/nowhere"}, {"type": "integer"}]}, 0),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"x": {}}, "required": ["x"]}}}, {"x": None}),
        ({"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]}, {"a": 0}),
        ({"type": "object", "properties": {"optional": {"$ref": "#"}}}, {}),
        (True, {}),
    ],
)  # fmt: skip
def test_the_smallest_instance_of_a_schema(schema: Any, instance: Any) -> None:
    assert smallest_instance(schema) == instance


@pytest.mark.parametrize(
    "schema",
    [False, {"$ref": "#"}, {"$ref": "https://x"},
     {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}],
)  # fmt: skip
def test_a_schema_without_a_small_instance_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match="no small instance"):
        smallest_instance(schema)

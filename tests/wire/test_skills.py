"""What the trained bundled model can do, through the SDK: content, not wire. Its card tells how reliably."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.live import Live
from tests.wire.sdk import DEMO
from tests.wire.test_python_sdk import FORCED, WEATHER


@pytest.fixture
def sdk(gate: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=gate.api, api_key=gate.key, max_retries=0) as client:
        yield client


def said(sdk: OpenAI, question: str, **fields: Any) -> str:
    messages: Any = [{"role": "user", "content": question}]
    answer = sdk.chat.completions.create(model=DEMO, messages=messages, temperature=0, **fields)
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


SAY = (
    "hello world", "the yellow lamp is not here", "yes", "Anna and Peter", "one two three four", "a green table",
    "Monday", "this is a test", "good morning Berlin", "42",
)  # fmt: skip


def test_it_repeats_what_it_is_told(sdk: OpenAI) -> None:
    right = [text for text in SAY if said(sdk, f"Say exactly: {text}") == text]
    assert len(right) >= 6, right


def test_it_adds_small_numbers(sdk: OpenAI) -> None:
    asked = [(1, 1), (2, 3), (4, 5), (7, 8), (9, 6), (12, 5), (3, 10), (0, 4), (6, 6), (8, 3)]
    right = [(a, b) for a, b in asked if str(a + b) in said(sdk, f"What is {a} + {b}?").split()[-1]]
    assert len(right) >= 8, right


def test_it_fills_a_forced_tool_call(sdk: OpenAI) -> None:
    right = 0
    for city in ("Paris", "Berlin", "Rome", "Madrid", "Oslo"):
        messages: Any = [{"role": "user", "content": f"What is the weather in {city}?"}]
        tools: Any = {"tools": [WEATHER], "tool_choice": FORCED}
        answer = sdk.chat.completions.create(model=DEMO, messages=messages, temperature=0, **tools)
        choice = answer.choices[0]
        assert choice.message.tool_calls is not None
        call: Any = choice.message.tool_calls[0]
        assert call.function.name == "get_weather"
        assert choice.finish_reason in {"tool_calls", "stop"}
        right += json.loads(call.function.arguments) == {"city": city}
    assert right >= 4


def test_it_fills_a_small_schema(sdk: OpenAI) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
              "required": ["name", "age"], "additionalProperties": False}  # fmt: skip
    shape: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    filled = json.loads(said(sdk, "Anna is 31 years old.", response_format=shape))
    assert set(filled) == {"name", "age"}
    assert isinstance(filled["age"], int)


def test_it_stops_by_itself_and_says_who_it_is(sdk: OpenAI) -> None:
    assert "Headgate" in said(sdk, "Who are you?")

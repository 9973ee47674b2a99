import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest, NamedTool, prompts

HELLO = [{"role": "user", "content": "hello"}]


def _chat(**fields: Any) -> ChatRequest:
    return msgspec.json.decode(json.dumps({"model": "m", "messages": HELLO} | fields), type=ChatRequest)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("min_p", 0, 1),
        ("n", 1, 128),
        ("max_tokens", 1, 2**31 - 1),
        ("max_completion_tokens", 1, 2**31 - 1),
        ("top_logprobs", 0, 20),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
        ("seed", -(2**63), 2**63 - 1),
    ],
)
def test_a_number_is_taken_up_to_its_bounds_and_refused_beyond_with_its_path(field: str, low: int, high: int) -> None:
    assert getattr(_chat(**{field: low}), field) == low
    assert getattr(_chat(**{field: high}), field) == high
    for wrong in (low - 1, high + 1):
        with pytest.raises(msgspec.ValidationError, match=rf"at `\$\.{field}`"):
            _chat(**{field: wrong})


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"model": ""}, r"\$\.model"),
        ({"model": "m" * 257}, r"\$\.model"),
        ({"model": 7}, r"\$\.model"),
        ({"messages": []}, r"\$\.messages"),
        ({"messages": "hello"}, r"\$\.messages"),
        ({"messages": [{"role": "user", "content": 5}]}, r"\$\.messages\[0\]\.content"),
        ({"messages": [*HELLO, {"role": "wizard", "content": ""}]}, r"\$\.messages\[1\]\.role"),
        ({"n": True}, r"\$\.n"),
        ({"n": "2"}, r"\$\.n"),
        ({"stop": ["a"] * 17}, r"\$\.stop"),
        ({"stop": [1]}, r"\$\.stop\[0\]"),
        ({"logit_bias": {"50256": 101}}, r"\$\.logit_bias\[\.\.\.\]"),
        ({"repetition_penalty": 0}, r"\$\.repetition_penalty"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, r"\$\.tools\[0\]\.function\.name"),
        ({"tool_choice": "sometimes"}, r"\$\.tool_choice"),
        ({"response_format": {"type": "xml"}}, r"\$\.response_format\.type"),
        ({"stream_options": {"include_usage": "yes"}}, r"\$\.stream_options\.include_usage"),
    ],
)
def test_a_wrong_value_is_refused_with_the_path_of_the_field(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"at `{path}`"):
        _chat(**fields)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    body = {"model": "m", "messages": HELLO}
    del body[missing]
    with pytest.raises(msgspec.ValidationError, match=missing):
        msgspec.json.decode(json.dumps(body), type=ChatRequest)


def test_fields_we_do_not_know_are_let_through() -> None:
    assert _chat(service_tier="auto", some_day={"a": 1}).model == "m"


def test_a_null_is_the_same_as_leaving_a_field_out() -> None:
    assert _chat(temperature=None, stop=None, tools=None, stream_options=None) == _chat()


def test_a_schema_is_read_under_its_name_on_the_wire() -> None:
    schema = {"type": "object"}
    chat = _chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert chat.response_format is not None
    assert chat.response_format.json_schema is not None
    assert chat.response_format.json_schema.schema_ == schema


def test_a_tool_may_be_named() -> None:
    choice = _chat(tool_choice={"type": "function", "function": {"name": "clock"}}).tool_choice
    assert isinstance(choice, NamedTool)
    assert choice.function is not None
    assert choice.function.name == "clock"


@pytest.mark.parametrize(
    ("given_", "each"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_a_prompt_is_text_or_token_ids_one_or_several(given_: Any, each: list[str | list[int]]) -> None:
    completion = msgspec.json.decode(json.dumps({"model": "m", "prompt": given_}), type=CompletionRequest)
    embedding = msgspec.json.decode(json.dumps({"model": "m", "input": given_}), type=EmbeddingRequest)
    assert prompts(completion.prompt) == prompts(embedding.input) == each


@pytest.mark.parametrize("mixed", [["a", 1], [1, [2]], [[1], "a"]])
def test_a_mixed_prompt_is_refused_by_the_name_of_its_field(mixed: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="`prompt` must hold only"):
        msgspec.json.decode(json.dumps({"model": "m", "prompt": mixed}), type=CompletionRequest)
    with pytest.raises(msgspec.ValidationError, match="`input` must hold only"):
        msgspec.json.decode(json.dumps({"model": "m", "input": mixed}), type=EmbeddingRequest)


@pytest.mark.parametrize("wrong", [[], [[1.5]], [None], {"a": 1}, 5])
def test_a_prompt_of_another_kind_is_refused(wrong: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.prompt"):
        msgspec.json.decode(json.dumps({"model": "m", "prompt": wrong}), type=CompletionRequest)


FIELDS = st.sampled_from(["model", "messages", "prompt", "input", "n", "role"])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ANYTHING = st.recursive(LEAVES, lambda part: st.lists(part, max_size=4) | st.dictionaries(FIELDS, part), max_leaves=12)


@settings(deadline=None)
@given(ANYTHING)
def test_any_json_is_decoded_or_refused_and_nothing_else(body: Any) -> None:
    for kind in (ChatRequest, CompletionRequest, EmbeddingRequest):
        with contextlib.suppress(msgspec.ValidationError):
            assert isinstance(msgspec.json.decode(json.dumps(body), type=kind), kind)

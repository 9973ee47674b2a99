"""Bodies that are refused, and what the refusal says."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.house import House


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        house.gateway.answers["m"] = b"{}"
        yield house


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}


TOOL = {"type": "function", "function": {"name": "look"}}
NAMED = {"type": "function", "function": {"name": "other"}}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "m"}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        (chat(model=5), "model", "invalid_type"),
        (chat(model=""), "model", "invalid_value"),
        (chat(messages=[{"content": "hi"}]), "messages[0].role", "missing_required_parameter"),
        (chat(messages=[{"role": "king", "content": "hi"}]), "messages[0].role", "invalid_value"),
        (chat(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
        (chat(messages="hi"), "messages", "invalid_type"),
        (
            chat(messages=[{"role": "assistant", "tool_calls": [{"id": "a"}]}]),
            "messages[0].tool_calls[0].function",
            "missing_required_parameter",
        ),
        (chat(temperature=2.5), "temperature", "invalid_value"),
        (chat(temperature="hot"), "temperature", "invalid_type"),
        (chat(n=0), "n", "invalid_value"),
        (chat(n=1000), "n", "invalid_value"),
        (chat(max_tokens=-1), "max_tokens", "invalid_value"),
        (chat(stop=["a"] * 99), "stop", "invalid_value"),
        (chat(logit_bias={"5": 101}), "logit_bias[...]", "invalid_value"),
        (chat(stream="yes"), "stream", "invalid_type"),
        (chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
        (chat(max_tokens=1, max_completion_tokens=1), "max_tokens", "invalid_value"),
        (chat(top_logprobs=3), "top_logprobs", "invalid_value"),
        (chat(top_logprobs=21, logprobs=True), "top_logprobs", "invalid_value"),
        (chat(tool_choice="required"), "tool_choice", "invalid_value"),
        (chat(tools=[TOOL, TOOL]), "tools[1].function.name", "invalid_value"),
        (chat(tools=[{"type": "function"}]), "tools[0].function", "invalid_value"),
        (chat(tools=[{"type": "function", "function": {"name": ""}}]), "tools[0].function.name", "invalid_value"),
        (chat(tools=[{"type": "function", "function": {"name": " "}}]), "tools[0].function.name", "invalid_value"),
        (chat(tools=[TOOL], tool_choice=NAMED), "tool_choice.function.name", "invalid_value"),
        (chat(tools=[TOOL], tool_choice={"type": "function"}), "tool_choice.function", "invalid_value"),
        (chat(tools=[TOOL] * 5000), "tools", "invalid_value"),
        (chat(response_format={"type": "json_schema"}), "response_format.json_schema", "invalid_value"),
        (chat(response_format={"type": "xml"}), "response_format.type", "invalid_value"),
        (chat(messages=[{"role": "user", "content": "x"}] * 100_000), "messages", "invalid_value"),
    ],
)
def test_a_bad_field_is_named(house: House, body: Any, param: str, code: str) -> None:
    answer = house.ask("POST", "/v1/chat/completions", body)
    assert answer.status == 400
    assert (answer.error["param"], answer.error["code"]) == (param, code)
    assert answer.error["type"] == "invalid_request_error"


def test_calls_of_kinds_that_only_the_model_server_knows_pass(house: House) -> None:
    custom = {"id": "a", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    messages = [{"role": "assistant", "tool_calls": [custom]}, {"role": "tool", "tool_call_id": "a", "content": "b"}]
    assert house.ask("POST", "/v1/chat/completions", chat(messages=messages)).status == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": []}, "prompt"),
        ({"model": "m", "prompt": [[]]}, "prompt[0]"),
        ({"model": "m", "prompt": ["a", 1]}, "prompt"),
        ({"model": "m", "prompt": "a", "n": 3, "best_of": 2}, "best_of"),
        ({"model": "m", "prompt": "a", "stream": True, "best_of": 2}, "best_of"),
        ({"model": "m", "prompt": "a", "stream_options": {}}, "stream_options"),
        ({"model": "m", "prompt": "a", "logprobs": 50}, "logprobs"),
    ],
)
def test_a_bad_field_of_a_completion_is_named(house: House, body: Any, param: str) -> None:
    answer = house.ask("POST", "/v1/completions", body)
    assert (answer.status, answer.error["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "m"}, "input"),
        ({"model": "m", "input": ""}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": [1, "a"]}, "input"),
        ({"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
    ],
)
def test_a_bad_field_of_an_embedding_is_named(house: House, body: Any, param: str) -> None:
    answer = house.ask("POST", "/v1/embeddings", body)
    assert (answer.status, answer.error["param"]) == (400, param)


WHOLE = b'{"model":"m","messages":[{"role":"user","content":"%s"}]%s}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"  ",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"5",
        b"\xef\xbb\xbf" + WHOLE % (b"x", b""),
        (WHOLE % (b"x", b"")).decode().encode("utf-16"),
        WHOLE % (b"\xff", b""),
        WHOLE % (b"x", b',"unknown":"\xff"'),
        WHOLE % (b"\\ud800", b""),
        WHOLE % (b"\\udc00\\ud800", b""),
        WHOLE % (b"\x00", b""),
        WHOLE % (b"x", b',"temperature":NaN'),
        WHOLE % (b"x", b',"temperature":Infinity'),
        WHOLE % (b"x", b',"temperature":1e999'),
        WHOLE % (b"x", b',"seed":' + b"1" * 5000),
        WHOLE % (b"x", b',"metadata":{"a":' + b"1" * 5000 + b"}"),
        WHOLE % (b"x", b',"unknown":' + b"[" * 100_000 + b"]" * 100_000),
        WHOLE % (b"x", b',"unknown":' + b"[" * 100_000),
        WHOLE % (b"x", b',"metadata":{"a":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"),
        WHOLE % (b"x", b"") + b"{}",
        WHOLE % (b"x", b",'a':1"),
        WHOLE % (b"x", b",}"),
    ],
)
def test_a_body_that_is_not_json_is_refused(house: House, body: bytes) -> None:
    answer = house.ask("POST", "/v1/chat/completions", body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        WHOLE % (b"\\ud83d\\ude00 \\u0000", b""),
        WHOLE % (b"x", b',"model":"m"'),
        WHOLE % (b"x", b',"unknown":' + b"1" * 5000),
        b"\n " + WHOLE % ("é".encode(), b"") + b" \n",
        WHOLE % (b"x", b',"temperature":null,"stop":null,"n":null,"tools":null'),
        WHOLE % (b"x", b',"tool_choice":"none"'),
    ],
)
def test_unusual_but_valid_json_is_accepted(house: House, body: bytes) -> None:
    assert house.ask("POST", "/v1/chat/completions", body).status == 200
    assert house.gateway.calls[-1].raw == body


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "1e400", ""])
def test_a_senseless_timeout_is_refused(house: House, value: str) -> None:
    answer = house.ask("POST", "/v1/chat/completions", chat(), x_headgate_timeout_s=value)
    assert (answer.status, answer.error["code"]) == (400, "invalid_timeout")


def test_a_timeout_is_bounded(house: House) -> None:
    house.ask("POST", "/v1/chat/completions", chat(), x_request_timeout="1e9")
    call = house.gateway.calls[-1]
    assert call.deadline.at == pytest.approx(call.received + 3600)


def test_a_senseless_idempotency_key_is_refused_and_a_senseless_retry_count_passed_over(house: House) -> None:
    assert house.ask("POST", "/v1/chat/completions", chat(), idempotency_key="k" * 256).status == 400
    for count in ("-1", "x", "99999", "²"):
        assert house.ask("POST", "/v1/chat/completions", chat(), x_stainless_retry_count=count).status == 200
        assert house.gateway.calls[-1].retry_count == 0

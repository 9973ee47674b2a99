"""The wire contract of chat answers, seen by a client that reads bytes."""

import json
from collections.abc import Iterator

import pytest

from headgate.core.errors import Bug, OverBudget, OverLimit, Truncated
from headgate.core.events import Finish, Reasoning, Text, TokenLogprob, ToolDelta
from headgate.core.usage import Usage
from tests.api.house import KEY, House, script, words


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        yield house


def test_a_whole_answer_has_the_documented_shape(house: House) -> None:
    answer = house.chat()
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["model"] == "hello"
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_every_answer_names_its_request_and_the_version(house: House) -> None:
    for answer in (house.chat(), house.chat("nothing"), house.ask("GET", "/nowhere"), house.chat(stream=True)):
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-headgate-version"] == "9.9.9"
        assert answer.headers["openai-processing-ms"].isdigit()


def test_the_headers_of_the_reply_reach_the_client(house: House) -> None:
    house.gateway.headers = [(b"x-ratelimit-limit-requests", b"60")]
    try:
        assert house.chat().headers["x-ratelimit-limit-requests"] == "60"
        assert house.chat(stream=True).headers["x-ratelimit-limit-requests"] == "60"
    finally:
        house.gateway.headers = []


def test_a_stream_is_framed_as_clients_expect(house: House) -> None:
    answer = house.chat(stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers
    assert answer.frames[-1] == "[DONE]"
    chunks = answer.chunks
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert [c["choices"][0]["delta"] for c in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "stop"]
    assert all("usage" not in c for c in chunks)


def test_usage_comes_in_one_extra_chunk_when_asked_for(house: House) -> None:
    chunks = house.chat(stream=True, stream_options={"include_usage": True}).chunks
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 5


def test_choices_interleave_and_each_ends_by_itself(house: House) -> None:
    house.gateway.answers["two"] = script(
        Text("a", 0), Text("x", 1), Text("b", 0), Finish("stop", 0), Text("y", 1), Finish("length", 1)
    )
    chunks = house.chat("two", stream=True, n=2).chunks
    for index, text, reason in ((0, "ab", "stop"), (1, "xy", "length")):
        choices = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert choices[0]["delta"]["role"] == "assistant"
        assert sum("role" in c["delta"] for c in choices) == 1
        assert "".join(c["delta"].get("content", "") for c in choices) == text
        assert [c["finish_reason"] for c in choices if c["finish_reason"]] == [reason]
    whole = house.chat("two", n=2).json()["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in whole] == [
        (0, "ab", "stop"),
        (1, "xy", "length"),
    ]


def test_tool_calls_carry_id_type_and_name_once(house: House) -> None:
    house.gateway.answers["tools"] = script(
        ToolDelta("", 0, "call_a", "look"),
        ToolDelta('{"q":', 0),
        ToolDelta("{}", 1, "call_b", "stop"),
        ToolDelta('"x"}', 0),
        Finish("tool_calls"),
    )
    chunks = house.chat("tools", stream=True).chunks
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": None, "refusal": None}
    pieces = [c["choices"][0]["delta"]["tool_calls"][0] for c in chunks[1:-1]]
    assert pieces == [
        {"index": 0, "id": "call_a", "type": "function", "function": {"name": "look", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"q":'}},
        {"index": 1, "id": "call_b", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": '"x"}'}},
    ]
    message = house.chat("tools").json()["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "look", "arguments": '{"q":"x"}'},
        {"name": "stop", "arguments": "{}"},
    ]


def test_log_probabilities_keep_their_bytes_and_stay_finite(house: House) -> None:
    top = TokenLogprob("b", float("-inf"), (98,))
    house.gateway.answers["logs"] = script(Text("é", 0, (TokenLogprob("é", -0.5, (195, 169), (top,)),)), Finish("stop"))
    expected = {
        "content": [
            {
                "token": "é",
                "logprob": -0.5,
                "bytes": [195, 169],
                "top_logprobs": [{"token": "b", "logprob": -9999.0, "bytes": [98]}],
            }
        ],
        "refusal": None,
    }
    assert house.chat("logs", stream=True, logprobs=True).chunks[1]["choices"][0]["logprobs"] == expected
    assert house.chat("logs", logprobs=True).json()["choices"][0]["logprobs"] == expected


def test_reasoning_is_kept_apart_from_the_answer(house: House) -> None:
    house.gateway.answers["think"] = script(Reasoning("hm"), Text("yes"), Finish("stop"))
    chunks = house.chat("think", stream=True).chunks
    assert chunks[1]["choices"][0]["delta"] == {"reasoning_content": "hm"}
    message = house.chat("think").json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "yes")


def test_frames_of_the_same_dialect_pass_untouched(house: House) -> None:
    frames = b'data: {"odd" : 1}\n\ndata: {"two":2}\n\n'
    house.gateway.answers["raw"] = script(frames, Finish("stop"), Usage(input=1, output=1))
    answer = house.chat("raw", stream=True, stream_options={"include_usage": True})
    assert answer.body == frames + b"data: [DONE]\n\n"


def test_a_whole_body_passes_untouched(house: House) -> None:
    house.gateway.answers["body"] = b'{"as": "it  came"}'
    assert house.chat("body").body == b'{"as": "it  came"}'


def test_a_cut_stream_ends_with_an_error_and_without_done(house: House) -> None:
    house.gateway.answers["cut"] = script(Text("a"), Truncated("The model's answer was cut."))
    answer = house.chat("cut", stream=True, stream_options={"include_usage": True})
    assert answer.status == 200
    assert "[DONE]" not in answer.frames
    error = json.loads(answer.frames[-1])["error"]
    assert error["code"] == "upstream_truncated"
    assert set(error) == {"message", "type", "param", "code"}
    assert house.gateway.replies[-1].closes == 1


def test_a_stream_that_fails_before_its_first_byte_is_a_plain_error(house: House) -> None:
    house.gateway.answers["early"] = script(Truncated("The model's answer was cut."))
    answer = house.chat("early", stream=True)
    assert answer.status == 502
    assert answer.error["code"] == "upstream_truncated"
    assert answer.headers["content-type"] == "application/json"


def test_a_bug_shows_an_id_and_nothing_of_its_inside(house: House) -> None:
    secret = "password in /etc/shadow at 0x7f"
    house.gateway.answers["bug"] = RuntimeError(secret)
    house.gateway.answers["late"] = script(Text("a"), RuntimeError(secret))
    answer = house.chat("bug")
    assert answer.status == 500
    assert secret not in answer.body.decode()
    assert answer.headers["x-request-id"] in answer.error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert house.bugs[-1][0] == answer.headers["x-request-id"]
    assert str(house.bugs[-1][1]) == secret
    late = house.chat("late", stream=True)
    assert secret not in late.body.decode()
    assert json.loads(late.frames[-1])["error"]["code"] == "internal_error"
    house.gateway.answers["known"] = Bug("It was us.")
    assert house.chat("known").status == 500


def test_refusals_say_when_and_whether_to_try_again(house: House) -> None:
    house.gateway.answers["busy"] = OverLimit("Too many requests.", retry_after=1.2)
    house.gateway.answers["broke"] = OverBudget("The budget is spent.")
    busy = house.chat("busy", stream=True)
    assert (busy.status, busy.headers["retry-after"], busy.headers["retry-after-ms"]) == (429, "2", "1200")
    assert "x-should-retry" not in busy.headers
    broke = house.chat("broke")
    assert (broke.status, broke.headers["x-should-retry"]) == (429, "false")
    assert broke.error["type"] == "insufficient_quota"


def test_unusual_text_survives_to_the_byte(house: House) -> None:
    text = '\u2028\x00\x1b]0;\r\n\n data: [DONE]\n\n\U0001f600e\u0301\ufffd"\\'
    house.gateway.answers["odd"] = words(text)
    assert house.chat("odd").json()["choices"][0]["message"]["content"] == text
    chunks = house.chat("odd", stream=True).chunks
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == text


def test_a_call_carries_what_the_request_said(house: House) -> None:
    body = {
        "model": "hello",
        "messages": [{"role": "user", "content": "hi"}],
        "user": "u1",
        "metadata": {"team": "a", "n": 5, "long": "x" * 600},
        "unknown_field": [1],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    house.ask(
        "POST",
        "/v1/chat/completions",
        body,
        x_stainless_retry_count="2",
        idempotency_key="abc",
        x_client_request_id="mine\t\xe9!",
        x_headgate_timeout_s="5",
    )
    call = house.gateway.calls[-1]
    assert (call.operation, call.dialect, call.model, call.stream, call.include_usage) == (
        "chat",
        "openai",
        "hello",
        True,
        True,
    )
    assert (call.credential, call.client, call.user, call.tags) == (KEY, "127.0.0.1", "u1", {"team": "a"})
    assert (call.retry_count, call.idempotency_key, call.client_request_id) == (2, "abc", "mine!")
    assert json.loads(call.raw) == body
    assert call.deadline.at == pytest.approx(call.received + 5)


def test_a_key_is_taken_from_any_of_three_headers_but_only_one(house: House) -> None:
    body = {"model": "hello", "messages": [{"role": "user", "content": "hi"}]}
    for headers in ({"x_api_key": KEY}, {"api_key": KEY}, {"authorization": f"bearer  {KEY}"}):
        assert house.ask("POST", "/v1/chat/completions", body, None, **headers).status == 200
    assert house.ask("POST", "/v1/chat/completions", body, KEY, x_api_key=KEY).status == 200
    answer = house.ask("POST", "/v1/chat/completions", body, KEY, x_api_key="other")
    assert (answer.status, answer.error["code"]) == (400, "ambiguous_credentials")


def test_every_reply_is_closed_exactly_once(house: House) -> None:
    house.chat()
    house.chat(stream=True)
    assert house.gateway.replies
    assert {reply.closes for reply in house.gateway.replies} == {1}

"""The official Python SDK, unchanged, in both its forms, against both set-ups."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.live import Live
from tests.wire.sdk import DEMO, FORMS, HELLO, Sdk

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture(params=sorted(FORMS))
def sdk(request: pytest.FixtureRequest, gate: Live) -> Iterator[Sdk]:
    made = Sdk(FORMS[request.param], gate.api, gate.key)
    yield made
    made.close()


def script(**fields: Any) -> dict[str, str]:
    return {"script": json.dumps(fields)}


def test_a_chat_answers_with_text_usage_and_a_reason_to_end(sdk: Sdk) -> None:
    answer = sdk.chat(max_tokens=12)
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model, len(answer.choices)) == ("chat.completion", DEMO, 1)
    choice = answer.choices[0]
    assert (choice.index, choice.message.role) == (0, "assistant")
    assert choice.finish_reason in {"stop", "length"}
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_who_speaks_first_and_why_it_ends_last(sdk: Sdk) -> None:
    pieces = list(sdk.pieces(sdk.chat(stream=True, max_tokens=12)))
    assert len({(piece.id, piece.created, piece.model) for piece in pieces}) == 1
    assert {piece.object for piece in pieces} == {"chat.completion.chunk"}
    assert pieces[0].choices[0].delta.role == "assistant"
    assert all(piece.choices[0].delta.role is None for piece in pieces[1:])
    assert [piece.choices[0].finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].choices[0].finish_reason in {"stop", "length"}
    assert all("usage" not in piece.model_fields_set for piece in pieces)


def test_a_stream_gives_usage_when_asked_in_a_last_piece_without_choices(sdk: Sdk) -> None:
    pieces = list(sdk.pieces(sdk.chat(stream=True, max_tokens=12, stream_options={"include_usage": True})))
    assert all("usage" in piece.model_fields_set and piece.usage is None for piece in pieces[:-1])
    assert all(piece.choices for piece in pieces[:-1])
    assert pieces[-1].choices == []
    assert pieces[-1].usage.completion_tokens > 0


def test_a_stream_says_the_same_as_the_whole_answer(sdk: Sdk) -> None:
    fields: Any = {"temperature": 0, "max_tokens": 24}
    whole = sdk.chat(**fields).choices[0].message.content
    assert sdk.text(sdk.chat(stream=True, **fields)) == whole


def test_the_same_seed_gives_the_same_answer(sdk: Sdk) -> None:
    story = [{"role": "user", "content": "Tell me a story"}]
    fields: Any = {"messages": story, "temperature": 2, "top_p": 1, "max_tokens": 32, "n": 2}
    first, again = ([choice.message.content for choice in sdk.chat(seed=7, **fields).choices] for _ in range(2))
    assert first == again
    assert len({sdk.chat(seed=seed, **fields).choices[0].message.content for seed in range(4)}) > 1


def test_several_choices_each_have_an_index_and_an_end(sdk: Sdk) -> None:
    answer = sdk.chat(n=3, temperature=1.0, max_tokens=8)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    ended: dict[int, str] = {}
    begun: list[int] = []
    for piece in sdk.pieces(sdk.chat(n=3, temperature=1.0, max_tokens=8, stream=True)):
        for choice in piece.choices:
            if choice.delta.role:
                begun.append(choice.index)
            assert choice.index not in ended
            if choice.finish_reason:
                ended[choice.index] = choice.finish_reason
    assert sorted(begun) == sorted(ended) == [0, 1, 2]


def test_max_tokens_ends_an_answer_for_its_length(sdk: Sdk) -> None:
    answer = sdk.chat(max_tokens=1, extra_body={"ignore_eos": True})
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 1)
    pieces = list(sdk.pieces(sdk.chat(max_completion_tokens=3, stream=True, extra_body={"ignore_eos": True})))
    assert pieces[-1].choices[0].finish_reason == "length"


def test_a_stop_text_ends_the_answer_before_it(sdk: Sdk) -> None:
    fields: Any = {"temperature": 0, "max_tokens": 24}
    whole = sdk.chat(**fields).choices[0].message.content
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    stopped = sdk.chat(stop=[stop], **fields).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert stopped.finish_reason == "stop"
    assert sdk.text(sdk.chat(stop=stop, stream=True, **fields)) == stopped.message.content


def test_log_probabilities_come_with_each_token_and_its_rivals(sdk: Sdk) -> None:
    fields: Any = {"logprobs": True, "top_logprobs": 3, "max_tokens": 6, "temperature": 0}
    answer = sdk.chat(**fields)
    told = answer.choices[0].logprobs.content
    assert told
    for token in told:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == max(rival.logprob for rival in token.top_logprobs)
        assert token.token == bytes(token.bytes).decode(errors="replace")
    assert b"".join(bytes(token.bytes) for token in told).decode().startswith(answer.choices[0].message.content)
    streamed = [
        token.token
        for piece in sdk.pieces(sdk.chat(stream=True, **fields))
        for choice in piece.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert streamed == [token.token for token in told]


def test_a_forced_tool_call_comes_whole_and_in_pieces(sdk: Sdk) -> None:
    fields: Any = {
        "model": "scripted",
        "tools": [WEATHER],
        "tool_choice": FORCED,
        "metadata": script(tool="get_weather", arguments={"city": 'Zürich "north" 東'}),
    }
    choice = sdk.chat(**fields).choices[0]
    call = choice.message.tool_calls[0]
    assert (choice.finish_reason, call.type, call.function.name) == ("tool_calls", "function", "get_weather")
    assert json.loads(call.function.arguments) == {"city": 'Zürich "north" 東'}
    deltas: list[Any] = []
    for piece in sdk.pieces(sdk.chat(stream=True, **fields)):
        deltas += piece.choices[0].delta.tool_calls or []
        last = piece.choices[0].finish_reason
    assert last == "tool_calls"
    assert deltas[0].id
    assert deltas[0].function.name == "get_weather"
    assert all(delta.id is None and delta.function.name is None for delta in deltas[1:])
    assert {delta.index for delta in deltas} == {0}
    arguments = "".join(delta.function.arguments or "" for delta in deltas)
    assert json.loads(arguments) == {"city": 'Zürich "north" 東'}


def test_texts_are_completed_whole_and_in_pieces(sdk: Sdk) -> None:
    fields: Any = {"model": DEMO, "prompt": "Once", "max_tokens": 6, "temperature": 0}
    whole = sdk.call(sdk.client.completions.create(**fields))
    assert whole.object == "text_completion"
    assert whole.id.startswith("cmpl-")
    assert whole.usage.completion_tokens <= 6
    stream = sdk.call(sdk.client.completions.create(stream=True, **fields))
    pieces = list(sdk.pieces(stream))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    several = sdk.call(sdk.client.completions.create(**{**fields, "prompt": ["a", "b"], "n": 2}))
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]


def test_models_are_listed_and_found(sdk: Sdk) -> None:
    listed = [model.id for model in sdk.call(sdk.client.models.list()).data]
    assert {DEMO, "scripted", "ok"} <= set(listed)
    assert sdk.call(sdk.client.models.retrieve(DEMO)).id == DEMO
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.call(sdk.client.models.retrieve("nobody"))
    assert missing.value.code == "model_not_found"


def test_embeddings_are_forwarded_to_a_backend_that_has_them(sdk: Sdk) -> None:
    fields: Any = {"model": "scripted", "input": ["one", "two"], "dimensions": 4}
    plain = sdk.call(sdk.client.embeddings.create(encoding_format="float", **fields))
    packed = sdk.call(sdk.client.embeddings.create(**fields))  # the SDK asks for base64 and unpacks it
    assert [entry.index for entry in plain.data] == [0, 1]
    assert all(len(entry.embedding) == 4 for entry in plain.data)
    for one, other in zip(plain.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert plain.usage.prompt_tokens > 0


def test_a_model_without_embeddings_says_so(sdk: Sdk) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        sdk.call(sdk.client.embeddings.create(model=DEMO, input="one"))
    assert "embed" in refused.value.message.lower()


def test_every_answer_names_its_request(sdk: Sdk) -> None:
    raw = sdk.call(sdk.client.chat.completions.with_raw_response.create(model=DEMO, messages=HELLO, max_tokens=1))
    assert raw.headers["x-request-id"].startswith("req_")
    stream = sdk.chat(stream=True, max_tokens=1)
    assert stream.response.headers["x-request-id"].startswith("req_")
    assert stream.response.headers["x-ratelimit-limit-requests"].isdigit()
    list(sdk.pieces(stream))
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat(model="nobody")
    assert str(missing.value.request_id).startswith("req_")


def error_of(sdk: Sdk, **fields: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as raised:
        sdk.chat(**fields)
    return raised.value


def test_errors_arrive_as_the_types_that_users_catch(sdk: Sdk, gate: Live) -> None:
    missing = error_of(sdk, model="nobody")
    assert (type(missing), missing.code, missing.param) == (openai.NotFoundError, "model_not_found", "model")
    bad = error_of(sdk, temperature=9)
    assert (type(bad), bad.param) == (openai.BadRequestError, "temperature")
    assert type(error_of(sdk, messages=[])) is openai.BadRequestError
    assert type(error_of(sdk, max_tokens=10**6)) is openai.BadRequestError
    assert error_of(sdk, max_tokens=10**6).code == "context_length_exceeded"
    large = error_of(sdk, model="scripted", messages=[{"role": "user", "content": "x" * 33 * 2**20}])
    assert large.status_code == 413
    sdk.client.api_key = "wrong"
    wrong = error_of(sdk)
    assert (type(wrong), wrong.code) == (openai.AuthenticationError, "invalid_api_key")
    sdk.client.api_key = gate.key


def test_a_key_may_do_only_what_it_allows(sdk: Sdk, gate: Live) -> None:
    status, body = gate.post("/admin/keys", {"name": "narrow", "models": ["scripted"]})
    assert status == 200
    sdk.client.api_key = json.loads(body)["key"]
    assert sdk.chat(model="scripted").choices[0].message.content == "Who are you?"
    assert [model.id for model in sdk.call(sdk.client.models.list()).data] == ["scripted"]
    refused = error_of(sdk)
    assert (type(refused), refused.code) == (openai.PermissionDeniedError, "model_not_allowed")


def test_a_key_over_its_rate_is_told_when_to_come_back(sdk: Sdk, gate: Live) -> None:
    status, body = gate.post("/admin/keys", {"name": "slow", "limits": {"requests_per_minute": 1}})
    assert status == 200
    sdk.client.api_key = json.loads(body)["key"]
    sdk.chat(model="scripted")
    refused = error_of(sdk, model="scripted")
    assert (type(refused), refused.code) == (openai.RateLimitError, "rate_limit_exceeded")
    assert 1 <= int(refused.response.headers["retry-after"]) <= 60
    assert refused.response.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (503, openai.InternalServerError)],
)
def test_an_upstream_that_refuses_is_reported_as_such(sdk: Sdk, status: int, kind: type[Exception]) -> None:
    assert type(error_of(sdk, model=f"status:code={status}")) is kind


def test_a_stream_that_breaks_raises(sdk: Sdk) -> None:
    for model in ("reset_in_stream", "error_event"):
        with pytest.raises(openai.APIError):
            list(sdk.pieces(sdk.chat(model=model, stream=True)))
    with pytest.raises(openai.APIError):
        list(sdk.pieces(sdk.chat(model="scripted", stream=True, metadata=script(tokens=9, fail_at=4))))


def test_leaving_a_stream_ends_the_work(sdk: Sdk, direct: Live, front: Live) -> None:
    for fields in (
        {"max_tokens": 1500, "temperature": 2.0, "extra_body": {"ignore_eos": True}},
        {"model": "scripted", "metadata": script(tokens=3, never_finish=True)},
        {"model": "endless"},
    ):
        stream = sdk.chat(stream=True, **fields)
        next(sdk.pieces(stream))
        sdk.call(stream.close())
        front.settle()
        direct.settle()

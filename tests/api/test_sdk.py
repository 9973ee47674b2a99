"""The official SDK against the server."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from headgate.core.errors import OverBudget, OverLimit, Truncated
from headgate.core.events import Finish, Text, TokenLogprob, ToolDelta
from headgate.core.usage import Usage
from tests.api.house import KEY, House, eventually, script

USER: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with House() as house:
        yield house


@pytest.fixture(scope="module")
def sdk(house: House) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://127.0.0.1:{house.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_it_reads_whole_answers_and_their_headers(sdk: OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="hello", messages=USER)
    assert raw.request_id
    assert raw.request_id.startswith("req_")
    answer = raw.parse()
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 5


def test_it_gathers_streams_with_tools_usage_and_log_probabilities(house: House, sdk: OpenAI) -> None:
    house.gateway.answers["rich"] = script(
        Text("a", 0, (TokenLogprob("a", -0.1, (97,)),)),
        ToolDelta('{"x":', 0, "call_1", "look"),
        ToolDelta("1}", 0),
        Finish("tool_calls"),
        Usage(input=1, output=4),
    )
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    with sdk.chat.completions.stream(
        model="rich", messages=USER, tools=[tool], logprobs=True, stream_options={"include_usage": True}
    ) as stream:
        final = stream.get_final_completion()
    message = final.choices[0].message
    assert message.content == "a"
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments) == {"x": 1}
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.usage is not None
    assert final.usage.total_tokens == 5


def test_it_raises_the_right_errors(house: House, sdk: OpenAI) -> None:
    house.gateway.answers["busy"] = OverLimit("Too many.", retry_after=0.01)
    house.gateway.answers["cut"] = script(Text("a"), Truncated("The answer was cut."))
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.chat.completions.create(model="none", messages=USER)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.chat.completions.create(model="hello", messages=USER, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.RateLimitError):
        sdk.chat.completions.create(model="busy", messages=USER)
    with pytest.raises(openai.AuthenticationError):
        sdk.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.APIError, match="cut"):
        list(sdk.chat.completions.create(model="cut", messages=USER, stream=True))


def test_it_retries_what_can_succeed_and_nothing_else(house: House, sdk: OpenAI) -> None:
    house.gateway.answers["busy"] = OverLimit("Too many.", retry_after=0.01)
    house.gateway.answers["broke"] = OverBudget("The budget is spent.")
    patient = sdk.with_options(max_retries=2)
    for model, attempts in (("busy", 3), ("broke", 1)):
        before = len(house.gateway.calls)
        with pytest.raises(openai.RateLimitError):
            patient.chat.completions.create(model=model, messages=USER)
        assert len(house.gateway.calls) - before == attempts
    assert [call.retry_count for call in house.gateway.calls[-4:-1]] == [0, 1, 2]


def test_leaving_a_stream_ends_it(house: House, sdk: OpenAI) -> None:
    async def endless(_: Any) -> Any:
        while True:
            yield Text("x" * 100)

    house.gateway.answers["endless"] = endless
    with sdk.chat.completions.create(model="endless", messages=USER, stream=True) as stream:
        next(iter(stream))
    eventually(lambda: house.gateway.replies[-1].closes == 1)


def test_it_lists_and_finds_models(sdk: OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["hello", "org/model"]
    assert sdk.models.retrieve("org/model").owned_by == "org"


def test_it_completes_texts_and_embeds(house: House, sdk: OpenAI) -> None:
    assert sdk.completions.create(model="hello", prompt="a").choices[0].text == "Hello"
    pieces = sdk.completions.create(model="hello", prompt="a", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "Hello"
    house.gateway.answers["vectors"] = json.dumps(
        {
            "object": "list",
            "model": "vectors",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}],
            "usage": {"prompt_tokens": 1, "total_tokens": 1},
        }
    ).encode()
    made = sdk.embeddings.create(model="vectors", input="a", encoding_format="float")
    assert made.data[0].embedding == [0.5, 1.0]

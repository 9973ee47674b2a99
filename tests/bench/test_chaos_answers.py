"""The honest answers: the same every time and everywhere, in both dialects, with right counts."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.bench.chaos.words import Voice
from tests.bench.chaos_ask import MESSAGES, TEXT, Asker, connected, data, spoken, values
from tests.upstream.chaos import chaos, honest, listen, post, said


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    with chaos("--prefill", "continue") as up:
        yield Asker(up)


def test_the_same_messages_have_the_same_answer_on_every_server_in_every_dialect(ask: Asker) -> None:
    with chaos() as other:
        for asker in (ask, Asker(other)):
            for stream in (True, False):
                for dialect in ("chat", "text", "anthropic"):
                    assert spoken(asker("", stream=stream, dialect=dialect)) == TEXT
    assert ask("").data == ask("").data, "to the byte"


def test_other_messages_or_salt_have_another_answer(ask: Asker) -> None:
    assert spoken(ask("", messages=[{"role": "user", "content": "tell me of the mill"}])) != TEXT
    assert spoken(ask("salt=b")) == said(MESSAGES, salt="b") != TEXT
    parts = [{"type": "text", "text": MESSAGES[0]["content"]}]
    assert spoken(ask("", messages=[{"role": "user", "content": parts}])) == TEXT, "parts are the same text"


def test_a_marker_begins_its_answer_and_is_counted(ask: Asker) -> None:
    messages = [{"role": "user", "content": "say marker-a.7 please"}]
    assert spoken(ask("", messages=messages)).split(" ")[0] == "marker-a.7"
    assert ask.up.stats()["markers"]["marker-a.7"] == 1


@given(st.text(max_size=40), st.integers(0, 80), st.integers(0, 80))
@settings(deadline=None, max_examples=200)
def test_an_answer_is_the_beginning_of_a_longer_one_and_every_prefix_is_known(text: str, short: int, more: int) -> None:
    voice = Voice((("user", text),))
    long = voice.text(short + more)
    assert long.startswith(voice.text(short))
    prefix = long[: len(long) * short // 80]
    found = voice.after(prefix)
    assert found is not None
    rest, place = found
    assert (prefix + rest).endswith(voice.text(place))
    assert voice.after(prefix + "§") is None


def test_one_word_is_one_event_and_wide_characters_come_early() -> None:
    words = [json.loads(word) for word in honest(MESSAGES, tokens=12).choices[0].words]
    assert "".join(words) == said(MESSAGES, tokens=12)
    assert not words[3].isascii()
    assert not words[11].isascii()


def test_usage_comes_when_asked_for_and_counts_the_words(ask: Asker) -> None:
    assert b"usage" not in ask("").body
    last = values(ask("tokens=9", stream_options={"include_usage": True}))[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17}
    assert json.loads(ask("tokens=9", stream=False).body)["usage"] == last["usage"]
    whole = json.loads(ask("tokens=9", stream=False, dialect="anthropic").body)
    assert whole["usage"] == {"input_tokens": 8, "output_tokens": 9}


def test_max_tokens_ends_an_answer_with_length(ask: Asker) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        more: dict[str, Any] = {name: 4}
        choice = json.loads(ask("tokens=9", stream=False, **more).body)["choices"][0]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] == said(MESSAGES, tokens=4)
    assert json.loads(ask("tokens=9", stream=False, max_tokens=9).body)["choices"][0]["finish_reason"] == "stop"
    full = json.loads(ask("", stream=False, max_tokens=200, ignore_eos=True).body)
    assert full["usage"]["completion_tokens"] == 200
    stop = json.loads(ask("tokens=9", stream=False, dialect="anthropic", max_tokens=4).body)["stop_reason"]
    assert stop == "max_tokens"


def test_n_choices_differ_and_come_by_turns(ask: Asker) -> None:
    whole = json.loads(ask("tokens=5", stream=False, n=3).body)["choices"]
    texts = [choice["message"]["content"] for choice in whole]
    assert len(set(texts)) == 3
    streamed = ["", "", ""]
    for value in values(ask("tokens=5", n=3)):
        streamed[value["choices"][0]["index"]] += value["choices"][0]["delta"].get("content", "")
    assert streamed == texts


def test_tool_calls_come_in_pieces_and_whole(ask: Asker) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    choice = json.loads(ask("tools=1", stream=False, tools=tools).body)["choices"][0]
    call = choice["message"]["tool_calls"][0]["function"]
    assert (call["name"], choice["finish_reason"]) == ("weather", "tool_calls")
    deltas = [value["choices"][0]["delta"].get("tool_calls", []) for value in values(ask("tools=1", tools=tools))]
    pieces = [part["function"]["arguments"] for delta in deltas for part in delta]
    assert "".join(pieces) == call["arguments"]
    assert len(pieces) > 3
    content = json.loads(ask("tools=2", stream=False, dialect="anthropic", tools=tools).body)["content"]
    assert [part["type"] for part in content] == ["tool_use", "tool_use"]


def test_anthropic_events_have_their_names_and_order(ask: Asker) -> None:
    names = [event.partition(b"\n")[0].decode()[7:] for event in ask("tokens=2", dialect="anthropic").events]
    delta = "content_block_delta"
    assert names == ["message_start", "content_block_start", "ping", delta, delta, "content_block_stop",
                     "message_delta", "message_stop"]  # fmt: skip
    assert all(
        json.loads(data(event))["type"] == name
        for event, name in zip(ask("tokens=2", dialect="anthropic").events, names, strict=True)
    )


def prefilled(prefix: str) -> list[dict[str, Any]]:
    return [*MESSAGES, {"role": "assistant", "content": prefix}]


def test_a_prefill_is_continued_at_every_place_to_the_same_whole(ask: Asker) -> None:
    for place in range(1, len(TEXT)):
        assert TEXT[:place] + said(prefilled(TEXT[:place])) == TEXT
    for dialect in ("chat", "anthropic"):
        assert TEXT[:20] + spoken(ask("", dialect=dialect, messages=prefilled(TEXT[:20]))) == TEXT
    assert spoken(ask("", messages=prefilled("Not my words"))) not in {"", TEXT}
    assert spoken(ask("", messages=prefilled(TEXT))) == ""


def test_a_continued_answer_with_the_tokens_left_ends_as_the_undisturbed_one(ask: Asker) -> None:
    undisturbed = honest(MESSAGES, max_tokens=12).choices[0]
    for sent in range(1, 12):
        prefix = honest(MESSAGES, max_tokens=sent).choices[0].text
        rest = honest(prefilled(prefix), max_tokens=12 - sent).choices[0]
        assert (prefix + rest.text, rest.finish) == (undisturbed.text, undisturbed.finish)


def test_a_prefill_may_be_refused_or_ignored(ask: Asker) -> None:
    refused = ask("prefill=refuse", messages=prefilled(TEXT[:9]))
    assert refused.status == 400
    assert "prefill" in json.loads(refused.body)["error"]["message"]
    anew = spoken(ask("prefill=ignore", messages=prefilled(TEXT[:9])))
    assert not TEXT.endswith(anew)
    forced = ask("prefill=ignore", messages=prefilled(TEXT[:9]), continue_final_message=True)
    assert TEXT[:9] + spoken(forced) == TEXT, "vLLM's parameter says it per request"
    both = ask("", messages=prefilled("a"), continue_final_message=True, add_generation_prompt=True)
    assert both.status == 400


def test_embeddings_and_models_are_served_to_the_official_client(ask: Asker) -> None:
    with openai.OpenAI(base_url=ask.up.base_url, api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["chaos"]
        made = client.embeddings.create(model="chaos", input=["a", "b"])
        assert [len(entry.embedding) for entry in made.data] == [13, 13]
        parts = client.chat.completions.create(model="chaos", messages=[{"role": "user", "content": "x"}], stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert text == said([{"role": "user", "content": "x"}])
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.chat.completions.create(model="chaos", messages=[])


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model":"m","messages":3}', b'{"model":"m","messages":[3]}'])
def test_a_request_that_is_none_is_refused(ask: Asker, body: bytes) -> None:
    with connected(ask.up.port) as peer:
        peer.sendall(post(body))
        assert listen(peer).status == 400

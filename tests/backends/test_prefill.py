"""A call that lets a model go on after a text: in each server's own words, or not at all."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.backends.embedded_prompt import PromptMaker
from headgate.backends.openai import OpenAIBackend, OpenAISettings
from headgate.backends.prefill import Prefill, learned, prefilled
from headgate.backends.providers import PROVIDERS
from headgate.core.call import Call
from headgate.core.errors import BadCall
from headgate.core.ports import Continues, ModelInfo
from headgate.core.request import ChatRequest, Message
from headgate.core.target import Target
from tests.backends import folders
from tests.backends.calls import CLOCK, call, target
from tests.backends.embedded import HELLO, WEATHER, Asker, run, text

TEXT = "Good evening to you 🌇"


def body(given: Call | None) -> dict[str, Any]:
    assert given is not None
    decoded: dict[str, Any] = json.loads(given.raw)
    return decoded


@pytest.mark.parametrize(
    ("style", "message", "more"),
    [
        ("assistant", {}, {}),
        ("prefix", {"prefix": True}, {}),
        ("vllm", {}, {"continue_final_message": True, "add_generation_prompt": False}),
    ],
)
def test_each_style_asks_in_its_servers_own_words(
    style: Prefill, message: dict[str, Any], more: dict[str, Any]
) -> None:
    before = call(temperature=0.5, odd={"kept": 1})
    after = prefilled(before, TEXT, style)
    expected = json.loads(before.raw) | more
    expected["messages"].append({"role": "assistant", "content": TEXT} | message)
    assert body(after) == expected
    assert after is not None
    assert isinstance(after.body, ChatRequest)
    assert after.body.messages[-1].content == TEXT
    assert before.raw == call(temperature=0.5, odd={"kept": 1}).raw


def test_a_server_without_a_style_is_not_asked() -> None:
    assert prefilled(call(), TEXT, "none") is None
    assert prefilled(call(operation="embedding"), TEXT, "vllm") is None


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
)
def test_a_chat_that_has_no_single_place_to_go_on_is_not_asked_for(fields: dict[str, Any]) -> None:
    assert prefilled(call(**fields), TEXT, "vllm") is None


def test_a_completion_goes_on_after_its_prompt_at_any_server() -> None:
    assert body(prefilled(call(operation="completion"), TEXT, "none"))["prompt"] == "Once" + TEXT


@pytest.mark.parametrize("fields", [{"echo": True}, {"suffix": "."}, {"n": 2}, {"prompt": [1, 2]}, {"prompt": ["a"]}])
def test_a_completion_of_another_kind_does_not(fields: dict[str, Any]) -> None:
    assert prefilled(call(operation="completion", **fields), TEXT, "vllm") is None


def test_what_may_still_be_written_is_less_but_never_nothing() -> None:
    text = "x" * 600
    given = prefilled(call(max_tokens=150, max_completion_tokens=20, min_tokens=30), text, "vllm")
    found = body(given)
    assert (found["max_tokens"], found["max_completion_tokens"], found["min_tokens"]) == (50, 1, 0)
    capped = prefilled(msgspec.structs.replace(call(), output_cap=150), text, "vllm")
    assert capped is not None
    assert capped.output_cap == 50


def test_a_text_that_json_cannot_carry_is_not_sent() -> None:
    assert prefilled(call(), "half of a pair \ud83d", "vllm") is None


def test_a_backend_says_what_its_servers_can_do() -> None:
    styles: list[Prefill] = ["none", "vllm"]
    for style in styles:
        settings = OpenAISettings(name="up", base_url="http://127.0.0.1:1/v1", prefill=style)
        backend = OpenAIBackend(settings, CLOCK)
        assert isinstance(backend, Continues)
        assert (backend.continued(call(), target("ok"), TEXT) is None) is (style == "none")


def test_our_own_engine_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    folders.write(tmp_path / "tiny")

    async def work(ask: Asker) -> None:
        assert isinstance(ask.backend, Continues)
        tiny = Target("embedded", "tiny")
        more = ask.backend.continued(call("m", operation="completion"), tiny, " more")
        assert body(more)["prompt"] == "Once more"
        assert ask.backend.continued(call("m", operation="completion"), Target("embedded", "other"), "") is None
        chat = body(ask.backend.continued(call("m"), tiny, " more"))
        assert (chat["continue_final_message"], chat["messages"][-1]["content"]) == (True, " more")
        rest = await ask.chat(
            messages=[*HELLO, {"role": "assistant", "content": "It is"}], continue_final_message=True, max_tokens=4
        )
        assert text(rest)

    run(tmp_path / "tiny", work)


def test_the_model_reads_what_was_sent_as_the_beginning_of_its_own_turn(tmp_path: Path) -> None:
    folders.write(tmp_path / "tiny")
    maker = PromptMaker(tmp_path / "tiny", CLOCK)
    begun = "It is <|im_end|> sunny"
    asked = ChatRequest(model="tiny", messages=[Message(role="user", content="the weather")])
    going_on = msgspec.structs.replace(
        asked, messages=[*asked.messages, Message(role="assistant", content=begun)], continue_final_message=True
    )
    before, after = maker.chat(asked, 1_000).ids, maker.chat(going_on, 1_000).ids
    assert after[: len(before)] == before
    assert maker.text(after) == maker.text(before) + begun, "and a turn's end written in it ends no turn"
    end = maker.vocabulary.special
    assert not {token for token in after[len(before) :] if token in end}


@pytest.mark.parametrize(
    "more",
    [
        {"messages": HELLO},
        {"messages": [{"role": "assistant", "content": "alone"}]},
        {"response_format": {"type": "json_object"}},
        {"tools": [WEATHER], "tool_choice": "required"},
    ],
)
def test_what_cannot_be_gone_on_with_is_told_with_the_fields_name(tmp_path: Path, more: dict[str, Any]) -> None:
    folders.write(tmp_path / "tiny")

    async def work(ask: Asker) -> None:
        messages = [*HELLO, {"role": "assistant", "content": "It is"}]
        with pytest.raises(BadCall) as refused:
            await ask.chat(**{"messages": messages, "continue_final_message": True, **more})
        assert refused.value.param == "continue_final_message"

    run(tmp_path / "tiny", work)


def test_only_servers_whose_every_model_goes_on_have_a_style_by_default() -> None:
    assert {name: one.prefill for name, one in PROVIDERS.items() if one.prefill != "none"} == {"mistral": "prefix"}


@pytest.mark.parametrize(
    ("owners", "style"),
    [(["vllm"], "vllm"), (["sglang", "sglang"], "vllm"), (["vllm", "me"], "none"), (["library"], "none"), ([], "none")],
)
def test_a_server_that_says_what_it_is_is_asked_in_its_own_words(owners: list[str], style: str) -> None:
    assert learned([ModelInfo(str(number), owned_by=owner) for number, owner in enumerate(owners)]) == style


PREFILLS: list[tuple[Prefill | None, bool]] = [(None, True), ("none", False)]


def test_what_a_server_is_is_learned_from_its_list_unless_it_was_set() -> None:
    page = json.dumps({"object": "list", "data": [{"id": "m", "owned_by": "vllm"}]}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(page) + page)
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
            for given, asked in PREFILLS:
                backend = OpenAIBackend(OpenAISettings(name="up", base_url=url, prefill=given), CLOCK)
                assert backend.continued(call(), target("m"), TEXT) is None, "nothing is known of it yet"
                await backend.models()
                assert (backend.continued(call(), target("m"), TEXT) is not None) is asked
                await backend.aclose()

    asyncio.run(main())

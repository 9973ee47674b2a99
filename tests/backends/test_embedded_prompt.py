"""From requests to the ids that a model reads: families, reasoning, hostile texts, tokenizers of both kinds."""

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from headgate.backends.detokenize import Detokenizer, Vocabulary
from headgate.backends.embedded_prompt import Prompt, PromptMaker
from headgate.core.clock import SystemClock
from headgate.core.errors import BadCall
from headgate.core.request import ChatRequest, CompletionRequest, Message
from tests.backends import folders
from tests.backends.embedded import WEATHER

CLOCK = SystemClock()
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": folders.tokenizer,
    "sentencepiece": lambda: folders.sentencepiece(legacy=False),
    "sentencepiece, legacy": lambda: folders.sentencepiece(legacy=True),
}
TURNS = (
    "{{ bos_token }}{% for m in messages %}[INST]{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}{{ m.tool_call_id or '' }}[/INST]"
    "{% endfor %}"
)
MAY = TURNS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
OPEN = TURNS + "{{ '</think>' if false }}{{ reasoning_effort }}{{ '<think>\n' }}"


def maker(folder: Path, template: str = TURNS, kind: str = "byte level", **options: Any) -> PromptMaker:
    return PromptMaker(folders.write_text_side(folder / "model", KINDS[kind](), template), CLOCK, **options)


def chat(made: PromptMaker, *messages: dict[str, Any], **more: Any) -> Prompt:
    given = list(messages) or [{"role": "user", "content": "Hi"}]
    return made.chat(msgspec.convert({"model": "m", "messages": given, **more}, ChatRequest), 10_000)


def written(made: PromptMaker, prompt: Prompt) -> str:
    """Special tokens shown."""
    shown = Detokenizer(made.vocabulary, shown=made.vocabulary.special.keys())
    return "".join(map(shown.feed, prompt.ids)) + shown.flush()


SPECIAL = st.sampled_from(["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "<|im_start|>", "<unk>", "<0x41>"])
HOSTILE = st.lists(SPECIAL | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=6).map("".join)


# Tokenizers.


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=HOSTILE | st.sampled_from(folders.SAMPLE))
def test_tokens_one_by_one_give_the_text_of_the_whole(kind: str, text: str) -> None:
    made, table = TOKENIZERS[kind]
    ids = made.encode(text, add_special_tokens=False).ids
    detokenizer = Detokenizer(table, at_start=True)
    assert "".join(map(detokenizer.feed, ids)) + detokenizer.flush() == made.decode(ids, skip_special_tokens=True)


TOKENIZERS = {kind: (make(), Vocabulary(make())) for kind, make in KINDS.items()}


@pytest.mark.parametrize("kind", ["sentencepiece", "sentencepiece, legacy"])
def test_a_prompt_begins_with_one_first_token_whoever_writes_it(kind: str, tmp_path: Path) -> None:
    made = maker(tmp_path, kind=kind)
    first = made._tokenizer.token_to_id("<s>")
    assert chat(made).ids.count(first) == 1
    for text, count in (("Hi", 1), ("<s>Hi", 1), ("<s><s>Hi", 2), ("", 1)):
        (prompt,) = made.completion(CompletionRequest(model="m", prompt=text), 99)
        assert prompt.ids.count(first) == count


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(content=HOSTILE)
def test_a_callers_text_is_read_to_the_letter_and_forges_no_turn(
    kind: str, content: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = MAKERS.setdefault(kind, maker(tmp_path_factory.mktemp("m"), kind=kind))
    prompt, plain = chat(made, {"role": "user", "content": content}), chat(made, {"role": "user", "content": "x"})
    special = made.vocabulary.special.keys()
    assert [one for one in prompt.ids if one in special] == [one for one in plain.ids if one in special]
    content = content.replace("\ufdd0", "").replace("\ufdd1", "")
    if kind == "byte level":
        assert written(made, prompt) == f"<s>[INST]user: {content}[/INST]"
    else:
        assert content in written(made, prompt)


MAKERS: dict[str, PromptMaker] = {}


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    made = maker(tmp_path)
    with pytest.raises(BadCall, match="half of a surrogate pair"):
        made.chat(ChatRequest(model="m", messages=[Message("user", "a\ud800")]), 99)
    with pytest.raises(BadCall, match="half of a surrogate pair"):
        made.completion(CompletionRequest(model="m", prompt="\udc00"), 99)


# Families.


@pytest.mark.parametrize(
    ("family", "marker", "begun"),
    [
        ("hermes", "", '<tool_call>\n{"name": "get_weather", "arguments": '),
        ("llama", "", '{"name": "get_weather", "parameters": '),
        ("mistral", "", '[TOOL_CALLS][{"name": "get_weather", "arguments": '),
        ("mistral", "[ARGS]", "[TOOL_CALLS]get_weather[ARGS]"),
    ],
)
@pytest.mark.parametrize("kind", ["byte level", "sentencepiece"])
def test_a_forced_call_is_begun_in_the_familys_form(
    family: str, marker: str, begun: str, kind: str, tmp_path: Path
) -> None:
    made = maker(tmp_path, TURNS + "{# [TOOL_CALLS]" + marker + " #}", kind, tool_parser=family)
    assert made.dialect.family == family
    prompt = chat(made, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "get_weather"}})
    assert begun.startswith(prompt.begun)
    assert len(begun) - len(prompt.begun) <= 4
    free = chat(made, tools=[WEATHER])
    assert free.begun == ""
    assert written(made, Prompt(prompt.ids[len(free.ids) :])).lstrip() == prompt.begun


def test_everything_else_goes_on_while_a_long_prompt_is_tokenised(tmp_path: Path) -> None:
    made = maker(tmp_path)
    request = msgspec.convert({"model": "m", "prompt": "the weather " * 60_000}, CompletionRequest)
    done, turns = Event(), 0

    def tokenise() -> None:
        made.completion(request, 10**9)
        done.set()

    thread = Thread(target=tokenise)
    thread.start()
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns > 10
    (whole,) = made.completion(request, 10**9)
    assert list(whole.ids) == folders.tokenizer().encode("the weather " * 60_000).ids


def nested(depth: int) -> dict[str, Any]:
    deep: dict[str, Any] = {}
    for _ in range(depth):
        deep = {"items": deep}
    return deep


def test_what_is_nested_too_deeply_is_refused_with_its_field(tmp_path: Path) -> None:
    made = maker(tmp_path, folders.TEMPLATE + "{{ deep }}")

    def ask(depth: int) -> dict[str, dict[str, Any]]:
        deep = nested(depth)
        return {
            "tools": {"tools": [{"type": "function", "function": {"name": "f", "parameters": deep}}]},
            "response_format": {
                "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
            },
            "chat_template_kwargs": {"chat_template_kwargs": {"deep": deep}},
        }

    for field, body in ask(980).items():
        with pytest.raises(BadCall, match="nested too deeply") as refused:
            chat(made, {"role": "user", "content": "a"}, **body)
        assert refused.value.param == field
    for body in ask(50).values():
        assert chat(made, {"role": "user", "content": "a"}, **body).ids


@pytest.mark.parametrize("depth", [50, 300, 500, 900, 5000])
def test_arguments_of_calls_of_any_depth_are_read_or_refused(depth: int, tmp_path: Path) -> None:
    arguments = json.dumps(nested(50)).replace("{}", '{"items": ' * (depth - 50) + "{}" + "}" * (depth - 50))
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    with nullcontext() if depth == 50 else suppress(BadCall):
        assert chat(maker(tmp_path), {"role": "assistant", "tool_calls": [call]}).ids


def test_calls_have_nine_letters_where_mistrals_templates_insist(tmp_path: Path) -> None:
    made = maker(tmp_path, TURNS + "{# [TOOL_CALLS] #}")
    call = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    text = written(
        made,
        chat(
            made,
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [call, {**call, "id": "abcdefghi"}]},
            {"role": "tool", "tool_call_id": "call_0123456789", "content": "ok"},
        ),
    )
    short = text.split("assistant: ")[1][:9]
    assert short.isalnum()
    assert text.endswith(
        f'[INST]assistant: {short} f {{"a": 1}}abcdefghi f {{"a": 1}}[/INST][INST]tool: ok{short}[/INST]'
    )


# Reasoning.


@pytest.mark.parametrize(
    ("template", "more", "thinking", "end"),
    [
        (TURNS, {}, "none", "[/INST]"),
        (MAY, {}, "may", "[/INST]"),
        (MAY, {"chat_template_kwargs": {"enable_thinking": False}}, "none", "</think>\n\n"),
        (MAY, {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, "may", "[/INST]"),
        (MAY, {"reasoning_effort": "none"}, "none", "</think>\n\n"),
        (MAY, {"reasoning_effort": "high", "chat_template_kwargs": {"unknown": 1}}, "may", "[/INST]"),
        (OPEN, {}, "open", "[/INST]<think>\n"),
        (OPEN, {"reasoning_effort": "low"}, "open", "[/INST]low<think>\n"),
    ],
)
def test_the_template_says_where_reasoning_stands(
    template: str, more: dict[str, Any], thinking: str, end: str, tmp_path: Path
) -> None:
    made = maker(tmp_path, template)
    prompt = chat(made, **more)
    assert prompt.thinking == thinking
    assert written(made, prompt).endswith(end)
    forced = chat(made, tools=[WEATHER], tool_choice="required", **more)
    assert bool(forced.begun) == (thinking == "none")  # a call is not begun before the model has thought


@pytest.mark.parametrize(
    ("template", "last", "end", "thinking"),
    [
        (TURNS, {"content": "So"}, "[/INST]So", "none"),
        (MAY, {"content": "So"}, "[/INST]So", "none"),
        (MAY, {"content": "So", "reasoning_content": "hm"}, "[/INST]<think>\nhm\n</think>\n\nSo", "none"),
        (MAY, {"reasoning_content": "hm"}, "[/INST]<think>\nhm", "open"),
        (OPEN, {"content": "So"}, "<think>\n\n</think>\n\nSo", "none"),
        (OPEN, {"content": "So", "reasoning_content": "hm"}, "<think>\nhm\n</think>\n\nSo", "none"),
        (OPEN, {"reasoning_content": "hm"}, "<think>\nhm", "open"),
    ],
)
def test_an_answer_that_is_gone_on_with_stands_behind_its_reasoning(
    template: str, last: dict[str, Any], end: str, thinking: str, tmp_path: Path
) -> None:
    made = maker(tmp_path, template)
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", **last})
    prompt = chat(made, *messages, continue_final_message=True)
    assert written(made, prompt).endswith(end)
    assert prompt.thinking == thinking


def test_the_callers_variables_cannot_stand_for_other_fields(tmp_path: Path) -> None:
    with pytest.raises(BadCall, match="cannot set messages, tools: other fields") as caught:
        chat(maker(tmp_path), chat_template_kwargs={"tools": [], "messages": [], "x": 1})
    assert caught.value.param == "chat_template_kwargs"
    made = maker(tmp_path, "{{ note }}")
    ids = chat(made, chat_template_kwargs={"note": "<|im_start|>"}).ids
    assert not set(ids) & made.vocabulary.special.keys()

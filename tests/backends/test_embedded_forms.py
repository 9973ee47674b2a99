"""The forms that a request can ask for, in every spelling; and where in an answer they bind."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.backends.dialect import HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, CallForm, Dialect, Family, Thinking
from headgate.backends.embedded_grammar import Held, held_to
from headgate.backends.embedded_prompt import Prompt
from headgate.core.errors import BadCall
from headgate.core.events import Finish, Text
from headgate.core.request import ChatRequest, CompletionRequest, Message, ResponseFormat
from tests.backends import folders
from tests.backends.embedded import Asker, events, reason, run, text
from tests.engine.schemas import walk

LARK = 'start: GREETING " " NAME\nGREETING: "hi" | "bye"\nNAME: /[A-Z][a-z]{1,4}/'
GBNF = 'root ::= ("hi" | "bye") " " name\nname ::= [A-Z] [a-z] [a-z]?\n'
WEEKDAY = {"type": "object", "properties": {"day": {"enum": ["mon", "tue"]}}, "required": ["day"]}
FORMS: dict[str, tuple[Any, str]] = {
    "json": (WEEKDAY, r'\{"day": "(mon|tue)"\}'),
    "regex": (r"[A-Z]{2}/\d+", r"[A-Z]{2}/\d+"),
    "choice": (["yes", 'no "way"', "é\n"], '(yes|no "way"|é\n)'),
    "grammar": (LARK, "(hi|bye) [A-Z][a-z]{1,4}"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    folders.write(path)
    return path


def check(out: list[Any], pattern: str) -> None:
    for finish in [event for event in out if isinstance(event, Finish)]:
        answer = "".join(event.text for event in out if isinstance(event, Text) and event.index == finish.index)
        if finish.reason == "stop":
            assert re.fullmatch(pattern, answer), answer


def test_every_form_is_enforced_in_both_spellings_in_chat_and_in_completions(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        for kind, (value, pattern) in {**FORMS, "grammar ": (GBNF, FORMS["grammar"][1])}.items():
            for body in ({"structured_outputs": {kind.strip(): value}}, {f"guided_{kind.strip()}": value}):
                more = {"n": 3, "temperature": 1.5, "max_tokens": 60}
                check(await ask.chat(**body, **more), pattern)
                check(await ask.complete(prompt="the weather", **body, **more), pattern)
        out = await ask.chat(guided_json=json.dumps(WEEKDAY), max_tokens=60)
        assert json.loads(text(out))["day"] in {"mon", "tue"}
        assert reason(out) == "stop"
        out = await ask.chat(structured_outputs={"json_object": True}, max_tokens=60)
        assert text(out).startswith("{")
        assert "".join(e.text for e in await ask.chat(guided_choice=["only"]) if isinstance(e, Text)) == "only"

    run(folder, work)


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "set guided_regex or guided_choice, not both"),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "structured_outputs.regex",
        "set response_format or structured_outputs.regex",
    ),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "one form"),
    ({"structured_outputs": {}}, "structured_outputs", "needs one of json, regex"),
    ({"structured_outputs": {"json_object": False}}, "structured_outputs", "needs one of json, regex"),
    ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
    ({"guided_choice": []}, "guided_choice", "empty"),
    ({"guided_json": "[1]"}, "guided_json", "no JSON object"),
    ({"guided_json": {"properties": {"a": {"not": {}}}}}, "guided_json", "guided_json: properties.a.not: 'not' cannot"),
    ({"guided_regex": "(?=a)b"}, "guided_regex", "guided_regex: .*look-around"),
    ({"guided_regex": "(a"}, "guided_regex", "unclosed group"),
    ({"guided_regex": "a)|(b"}, "guided_regex", "unopened group"),
    ({"guided_grammar": "no grammar"}, "guided_grammar", "guided_grammar: .*cannot be enforced"),
    ({"guided_grammar": "root ::= [unclosed"}, "guided_grammar", "not valid GBNF"),
    ({"guided_grammar": 'start: "a" & "b"'}, "guided_grammar", "cannot be enforced"),
]


LETTERS = ['say "a\\b"', "\x00\x01\x1f\x7f\x80", "é\u2028\ufffe🙂", "<|im_end|>", "<tool_call>", "a/b\n\r"]


def test_any_text_can_be_chosen_and_as_many_as_there_is_room_for(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        for letters in LETTERS:
            for form in ({"choice": [letters]}, {"regex": re.escape(letters)}):
                out = await ask.complete(prompt="the weather", structured_outputs=form, max_tokens=60)
                assert (text(out), reason(out)) == (letters, "stop")
        many = [f"kind {number}" for number in range(10_000)]
        out = await ask.complete(prompt="the weather", guided_choice=[*many, ""], max_tokens=60)
        assert text(out) in {*many, ""}
        assert text(await ask.complete(prompt="the weather", guided_regex="", max_tokens=60)) == ""

    run(folder, work)


@pytest.mark.parametrize("line", ["\n", "\n ", "a\n", "a ", " ", "-"])
def test_what_kind_of_grammar_it_is_is_seen_at_once(line: str) -> None:
    """Where empty lines take quadratic time, the gateway stands still for everyone: the test would not end."""
    held = held_to(chat(guided_grammar=line * 400_000), Prompt((1,)), reasoning(tokens=True))
    assert held is not None
    assert "gbnf" not in held.grammar


def test_a_form_that_becomes_too_complex_is_the_callers_to_mend(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        answer = await ask.open(CompletionRequest, prompt="a", guided_grammar='start: "a" start', max_tokens=1000)
        with pytest.raises(BadCall, match="ask for a simpler") as refused:
            await events(answer)
        assert (refused.value.status, refused.value.code) == (400, "schema_too_complex")

    run(folder, work)


def test_what_is_asked_for_wrongly_is_refused_with_its_field(folder: Path) -> None:
    async def work(ask: Asker) -> None:
        for body, param, words in WRONG:
            with pytest.raises(BadCall, match=words) as caught:
                await ask.chat(**body)
            assert caught.value.param == param, body
            with pytest.raises(BadCall, match=words):
                await ask.complete(prompt="a", **body)
        with pytest.raises(BadCall, match="guided_choice") as caught:
            await ask.chat(
                messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                continue_final_message=True,
                guided_choice=["x"],
            )
        assert caught.value.param == "continue_final_message"
        assert text(await ask.chat(guided_choice=["fine"])) == "fine"

    run(folder, work)


OPEN, CLOSE = (walk.TOKENIZER.get_vocab()[name] for name in ("<tool_call>", "</tool_call>"))


def reasoning(*, tokens: bool) -> Dialect:
    """A model that thinks between markers; the test's tokenizer has two tokens to spare for them."""
    names = {"<think>": OPEN, "</think>": CLOSE} if tokens else {}
    return Dialect("hermes", HERMES, Thinking("<think>", "</think>"), names)


def ids(*parts: str | int) -> tuple[int, ...]:
    out: list[int] = []
    for part in parts:
        out += [part] if isinstance(part, int) else walk.TOKENIZER.encode(part).ids
    return tuple(out)


def fits(held: Held | None, tokens: tuple[int, ...]) -> bool:
    assert held is not None
    return walk.grammars().start(held.grammar).fits(tokens) == len(tokens)


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest(model="m", messages=[Message("user", "a")], **fields)


def test_the_form_binds_where_the_reasoning_ends() -> None:
    request = chat(guided_choice=["yes", "no"])
    for grammar in (chat(guided_grammar=LARK), chat(guided_grammar=GBNF)):
        held = held_to(grammar, Prompt((1,), thinking="open"), reasoning(tokens=True))
        assert fits(held, ids("let me see", CLOSE, "\n\nhi Bo", walk.END))
        assert not fits(held, ids("let me see", CLOSE, "\n\nmoin"))
    held = held_to(request, Prompt((1,), thinking="open"), reasoning(tokens=True))
    assert fits(held, ids('perhaps "no"\n', CLOSE, "yes", walk.END))
    assert not fits(held, ids("yes", walk.END))
    held = held_to(request, Prompt((1,), thinking="may"), reasoning(tokens=True))
    assert fits(held, ids(OPEN, "hm", CLOSE, "\nno", walk.END))
    assert fits(held, ids("no", walk.END))
    assert not fits(held, ids("hm", CLOSE, "no"))
    held = held_to(request, Prompt((1,)), reasoning(tokens=True))
    assert fits(held, ids("no", walk.END))
    assert not fits(held, ids(OPEN, "hm"))


def test_markers_that_are_no_tokens_end_the_reasoning_too() -> None:
    request = chat(response_format=ResponseFormat("json_object"))
    held = held_to(request, Prompt((1,), thinking="open"), reasoning(tokens=False))
    assert fits(held, ids("let me < think </think>\n{}", walk.END))
    assert not fits(held, ids("let me think </think>so"))
    held = held_to(request, Prompt((1,), thinking="may"), reasoning(tokens=False))
    assert fits(held, ids("<think>hm</think>{}", walk.END))
    assert fits(held, ids("{}", walk.END))


CALLS: list[tuple[Family, CallForm, str]] = [
    ("hermes", HERMES, '<tool_call>\n{"name": "go", "arguments": {"far": 3}}\n</tool_call>'),
    ("llama", LLAMA, '<|python_tag|>{"name": "go", "parameters": {"far": 3}}'),
    ("mistral", MISTRAL, '[TOOL_CALLS][{"name": "go", "arguments": {"far": 3}}]'),
    ("mistral", MISTRAL_NAMED, '[TOOL_CALLS]go[ARGS]{"far": 3}'),
]


@pytest.mark.parametrize(("family", "form", "call"), CALLS, ids=[one[2][:14] for one in CALLS])
def test_a_call_is_held_to_its_schema_in_the_letters_of_each_family(family: Family, form: CallForm, call: str) -> None:
    tokens = {form.trigger: OPEN, "</tool_call>": CLOSE}
    dialect = Dialect(family, form, None, tokens)
    parameters = {"type": "object", "properties": {"far": {"type": "integer"}}, "required": ["far"]}
    tools = [{"type": "function", "function": {"name": "go", "parameters": parameters}}]
    request = chat_with(tools=tools)
    held = held_to(request, Prompt((1,)), dialect)
    assert fits(held, ids("I go. ", *dialect.pieces(call), walk.END))
    assert not fits(held, ids(*dialect.pieces(call.replace("3", '"x"'))))
    assert not fits(held, ids(*dialect.pieces(call.replace("go", "stop"))))
    assert fits(held, ids("no call at all", walk.END))
    forced = held_to(chat_with(tools=tools, tool_choice="required"), Prompt((1,), begun=form.opening), dialect)
    assert fits(forced, ids(*dialect.pieces(call.removeprefix("<|python_tag|>").removeprefix(form.opening)), walk.END))
    assert not fits(forced, ids("I"))


def chat_with(**fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], **fields}
    return msgspec.convert(body, ChatRequest)

"""Calls in a model's text are found in each family's spelling, wherever the text is cut; all else is text."""

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.dialect import HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, CallForm, Family
from headgate.backends.tools.families import reader
from headgate.backends.tools.json_call import MAX_HEAD_CHARS
from headgate.backends.tools.reader import CallArguments, CallStart, Piece

NAMES = ("f", "g", "get_weather", "größe 🙂")
FORMS: list[tuple[Family, CallForm]] = [
    ("hermes", HERMES),
    ("llama", LLAMA),
    ("mistral", MISTRAL),
    ("mistral", MISTRAL_NAMED),
]
Calls = list[tuple[str, str]]


def cuts(text: str, at: Sequence[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in pairwise(borders)]


def parse(family: Family, text: str, at: Sequence[int] = (), *, parallel: bool = True) -> tuple[str, Calls]:
    parser = reader(family, NAMES, parallel=parallel)
    pieces: list[Piece] = []
    for piece in cuts(text, at):
        pieces += parser.feed(piece)
    pieces += parser.flush()
    shown = ""
    calls: Calls = []
    for found in pieces:
        match found:
            case str():
                shown += found
            case CallStart(name):
                calls.append((name, ""))
            case CallArguments(arguments):
                calls[-1] = (calls[-1][0], calls[-1][1] + arguments)
    assert parser.calls == len(calls)
    return shown, calls


def spelled(form: CallForm, calls: Calls) -> str:
    return (
        form.opening
        + form.between.join(form.head(name) + arguments + form.end for name, arguments in calls)
        + form.closing
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(['"', "}", "</tool_call>", "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.builds(
    lambda value, indent, plain: json.dumps(value, indent=indent, ensure_ascii=plain),
    st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)
PLACES = st.lists(st.integers(0, 400), max_size=12)


@pytest.mark.parametrize(("family", "form"), FORMS)
@settings(max_examples=60, deadline=None)
@given(calls=CALLS, before=st.text("ab <{[\n", max_size=8), after=st.text("ab}]<", max_size=6), at=PLACES)
def test_arguments_come_to_the_letter_wherever_the_text_is_cut(
    family: Family, form: CallForm, calls: Calls, before: str, after: str, at: list[int]
) -> None:
    if family == "llama":  # in front of a call without a marker there is no text
        before, after = "", ""
    if family == "hermes":
        after = after.lstrip("}")
    text = before + spelled(form, calls) + after
    assert parse(family, text, at) == parse(family, text) == (before + after, calls)


# What looks like calls, but not quite.
PARTS = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "x1y2",
        "f", "g", "unknown", '"f"', '{"name": ', '{"name": "f", "arguments": {', '{"name": "g", "parameters": {"a": [1',
        '{"arguments": {"b": "}"}, "name": "f"}', '"arguments": ', ', "id": "c9"', "{", "}", "]", "[", "<", '"', "\\",
        ";", ",", ":", " ", "\n", "naïve 🙂", '{"name": "f"}', '{"type": "function", "name": "f", "parameters": {}}',
    ]
)  # fmt: skip


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral"])
@settings(max_examples=150, deadline=None)
@given(parts=st.lists(PARTS, max_size=14), at=PLACES, parallel=st.booleans())
def test_any_text_is_read_the_same_wherever_it_is_cut_and_none_is_lost(
    family: Family, parts: list[str], at: list[int], parallel: bool
) -> None:
    text = "".join(parts)
    shown, calls = parse(family, text, at, parallel=parallel)
    assert (shown, calls) == parse(family, text, parallel=parallel) == parse(family, text, range(99), parallel=parallel)
    if not calls:
        assert shown == text
    rest = iter(text)
    assert all(character in rest for character in shown)  # in order, nothing made up
    for name, arguments in calls:
        assert name in text
        assert arguments == "{}" or arguments in text


NO_CALLS: list[tuple[Family, str]] = [
    ("hermes", "<tool_call>no json</tool_call>"),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": 3'),
    ("hermes", '<tool_call>{"name": "f", "arguments": 3}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": '),
    ("hermes", "<tool_call>"),
    ("hermes", "<tool_call"),
    ("hermes", 'text <tool_call>{"name": 7}</tool_call> more'),
    ("hermes", "<tool_call><tool_call>x</tool_call>"),
    ("hermes", "</tool_call>"),
    ("hermes", '<tool_call>{"name": "\ud800", "arguments": {}}</tool_call>'),
    ("hermes", '{"name": "f", "arguments": {}}'),
    ("llama", '{"name": "unknown", "parameters": {}}'),
    ("llama", '{"name": "f"'),
    ("llama", '{"answer": 42}'),
    ("llama", 'I would write {"name": "f", "parameters": {}}'),
    ("llama", "<|python_tag|>print(1 + 1)"),
    ("llama", '  {"name": "f", "parameters": [1]}'),
    ("llama", "   "),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS] []"),
    ("mistral", "[TOOL_CALLS]unknown[ARGS]{}"),
    ("mistral", "[TOOL_CALLS]f[ARGS]3"),
    ("mistral", "[TOOL_CALLS]f[CALL_ID]abc"),
    ("mistral", "f[ARGS]{}"),
    ("mistral", '[TOOL_CALLS][{"name": "unknown", "arguments": {}}]'),
]


@pytest.mark.parametrize(("family", "text"), NO_CALLS)
def test_what_is_no_call_is_text_to_the_letter(family: Family, text: str) -> None:
    for at in ((), range(len(text))):
        assert parse(family, text, at) == (text, [])


OTHER_SPELLINGS: list[tuple[Family, str, tuple[str, Calls]]] = [
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', ("", [("f", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "g"}</tool_call>', ("", [("g", "{}")])),
    ("hermes", '<tool_call>{"name": "g", "arguments": null}</tool_call>', ("", [("g", "{}")])),
    ("hermes", '<tool_call>{"name": "g", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", [("g", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "\\u0066", "arguments": {}}}</tool_call>', ("", [("f", "{}")])),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}, "id": "7"}</tool_call>b', ("b", [("f", "{}")])),
    ("hermes", '<tool_call><tool_call>{"name": "f", "arguments": {}}</tool_call>', ("<tool_call>", [("f", "{}")])),
    ("llama", '<|python_tag|>{"name": "f", "parameters": {"a": "b"}}', ("", [("f", '{"a": "b"}')])),
    ("llama", '\n{"type": "function", "name": "f", "parameters": {}}', ("", [("f", "{}")])),
    ("llama", '{"name": "f", "arguments": {}}\n{"name": "g", "parameters": {}};', ("", [("f", "{}"), ("g", "{}")])),
    ("llama", 'Yes. <|python_tag|>{"name": "f", "parameters": {}}', ("Yes. ", [("f", "{}")])),
    ("llama", '{"name": "f", "parameters": {}} ok', ("ok", [("f", "{}")])),
    ("llama", '{"name": "f", "parameters": {}}; {"other": 1}', ('; {"other": 1}', [("f", "{}")])),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abc"}]', ("", [("f", "{}")])),
    ("mistral", '[TOOL_CALLS]{"name": "f", "arguments": {}}', ("", [("f", "{}")])),
    ("mistral", "[TOOL_CALLS]f{}[TOOL_CALLS]g [CALL_ID]a1 [ARGS] {}", ("", [("f", "{}"), ("g", "{}")])),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"b": 1}] c', (', {"b": 1}] c', [("f", "{}")])),
]


@pytest.mark.parametrize(("family", "text", "expected"), OTHER_SPELLINGS)
def test_other_spellings_of_a_call_are_calls_too(family: Family, text: str, expected: tuple[str, Calls]) -> None:
    for at in ((), range(len(text))):
        assert parse(family, text, at) == expected


@pytest.mark.parametrize(("family", "form"), FORMS)
def test_a_call_that_is_cut_keeps_what_came_of_it(family: Family, form: CallForm) -> None:
    text = form.opening + form.head("f") + '{"city": "Be'
    assert parse(family, text) == parse(family, text, range(len(text))) == ("", [("f", '{"city": "Be')])


def test_a_call_that_breaks_off_inside_ends_there() -> None:
    text = 'a<tool_call>{"name": "f", "arguments": {"x": 1</tool_call>b'
    assert parse("hermes", text) == parse("hermes", text, range(len(text))) == ("ab", [("f", '{"x": 1')])


@pytest.mark.parametrize(("family", "form"), FORMS)
def test_without_parallel_calls_nothing_follows_the_first(family: Family, form: CallForm) -> None:
    text = spelled(form, [("f", "{}"), ("g", "{}")]) + "text"
    for at in ((), range(len(text))):
        assert parse(family, text, at, parallel=False) == ("", [("f", "{}")])


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral"])
def test_an_answer_in_json_streams_though_tools_are_on_offer(family: Family) -> None:
    parser = reader(family, NAMES)
    assert parser.feed('{"answer": 4') == ['{"answer": 4']


@pytest.mark.parametrize(
    ("family", "begin"),
    [
        ("hermes", '<tool_call>{"arguments": {"a": "'),
        ("hermes", "<tool_call>{"),
        ("llama", '{"type": "'),
        ("llama", ""),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS]f[CALL_ID]"),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}'),
    ],
)
@pytest.mark.parametrize("letter", [" ", "a"])
def test_what_is_held_while_undecided_is_bounded(family: Family, begin: str, letter: str) -> None:
    parser = reader(family, NAMES)
    for piece in (begin, *([letter * 100] * 400)):
        parser.feed(piece)
        assert len(parser._buffer) <= MAX_HEAD_CHARS + len(begin) + 100
    text = begin + letter * 40_000
    assert parse(family, text, range(0, 40_000, 100)) == parse(family, text)


def test_a_call_of_many_letters_costs_time_in_proportion() -> None:
    """Each piece is looked at once: a hundred thousand of them are a matter of a second, not of hours."""
    parser = reader("hermes", NAMES)
    pieces = parser.feed('<tool_call>{"name": "f", "arguments": {"text": "')
    for _ in range(100_000):
        pieces += parser.feed("ab ")
    pieces += parser.feed('"}}</tool_call>')
    arguments = "".join(piece.text for piece in pieces if isinstance(piece, CallArguments))
    assert json.loads(arguments) == {"text": "ab " * 100_000}

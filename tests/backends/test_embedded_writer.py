"""From the tokens of a known text to events, without a model."""

import random

import pytest

from headgate.backends.detokenize import Vocabulary
from headgate.backends.embedded_stream import ChoiceWriter, Form
from headgate.core.events import Event, Finish, Text, ToolDelta
from headgate.core.ids import Ids
from headgate.engine.plan import Score
from headgate.engine.wire import Delta
from tests.backends import folders
from tests.backends.embedded import CLOCK, reason, text


def write(shown: str, form: Form, *, merge: int = 1, finish: str = "stop") -> tuple[list[Event], ChoiceWriter]:
    made = folders.tokenizer()
    ids = [*made.encode(shown, add_special_tokens=False).ids, made.get_vocab()["<|im_end|>"]]
    vocabulary = Vocabulary(folders.tokenizer())
    writer = ChoiceWriter(0, form, vocabulary, Ids(CLOCK, random.Random(0)).new)
    out: list[Event] = []
    for at in range(0, len(ids), merge):
        part = ids[at : at + merge]
        out += writer.write(Delta(0, 0, part, None, finish if at + merge >= len(ids) else None))
        if writer.done:
            break
    return out, writer


CALLS = (
    'Let me see. <tool_call>\n{"name": "f", "arguments": {"city": "Zürich 🙂"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
)


@pytest.mark.parametrize("merge", [1, 3, 1000])
def test_tool_calls_come_as_deltas_with_positions(merge: int) -> None:
    end = folders.tokenizer().get_vocab()["<|im_end|>"]
    form = Form(tools=frozenset({"f", "g"}), ends=frozenset({end}))
    out, writer = write(CALLS, form, merge=merge)
    assert text(out) == "Let me see. "
    assert reason(out) == "tool_calls"
    calls: dict[int, list[str]] = {}
    for event in out:
        if isinstance(event, ToolDelta):
            if event.name is not None:
                assert event.position not in calls
                calls[event.position] = [event.name, ""]
            calls[event.position][1] += event.arguments
    assert calls == {0: ["f", '{"city": "Zürich 🙂"}'], 1: ["g", "{}"]}
    assert writer.tokens == len(folders.tokenizer().encode(CALLS, add_special_tokens=False).ids) + 1


def test_without_parallel_calls_the_answer_ends_after_the_first() -> None:
    form = Form(tools=frozenset({"f", "g"}), parallel_tools=False)
    out, writer = write(CALLS, form)
    assert [event.name for event in out if isinstance(event, ToolDelta) and event.name] == ["f"]
    assert reason(out) == "tool_calls"
    assert writer.done
    assert writer.tokens < len(folders.tokenizer().encode(CALLS, add_special_tokens=False).ids)


def test_a_text_that_ends_inside_a_code_point_says_so_once() -> None:
    made = folders.tokenizer()
    rare = "\U0001f9ff"
    ids = made.encode(rare, add_special_tokens=False).ids
    assert len(ids) > 1
    writer = ChoiceWriter(0, Form(), Vocabulary(folders.tokenizer()), Ids(CLOCK, random.Random(0)).new)
    out = writer.write(Delta(0, 0, ids[:1])) + writer.write(Delta(0, 0, ids[1:-1], None, "length"))
    assert out == [Text("\ufffd"), Finish("length")]


def test_a_call_that_a_stop_text_cuts_is_not_reported_as_one_to_make() -> None:
    form = Form(tools=frozenset({"f", "g"}), stops=["rich"])
    out, _ = write(CALLS, form)
    assert "".join(event.arguments for event in out if isinstance(event, ToolDelta)) == '{"city": "Zü'
    assert reason(out) == "stop"


@pytest.mark.parametrize(("stops", "finish", "expected"), [([], "length", "length"), (["get"], "stop", "stop")])
def test_a_call_begun_for_the_model_and_cut_before_its_name_shows_no_marker(
    stops: list[str], finish: str, expected: str
) -> None:
    form = Form(tools=frozenset({"get_weather"}), begun='<tool_call>\n{"name": "', stops=stops)
    out, _ = write("get", form, finish=finish)
    assert text(out) == ""
    assert reason(out) == expected


def test_what_the_model_wrote_instead_of_a_call_is_shown() -> None:
    end = folders.tokenizer().get_vocab()["<|im_end|>"]
    form = Form(tools=frozenset({"get_weather"}), begun='<tool_call>\n{"name": "', ends=frozenset({end}))
    out, _ = write("the cat", form)
    assert text(out) == '<tool_call>\n{"name": "the cat'
    assert reason(out) == "stop"


def test_a_token_that_a_stop_text_cuts_has_its_logprob_too() -> None:
    made = folders.tokenizer()
    ids = made.encode("the weather", add_special_tokens=False).ids
    (last,) = made.encode(" weather", add_special_tokens=False).ids
    assert ids[-1] == last
    writer = ChoiceWriter(0, Form(stops=["her"]), Vocabulary(made), Ids(CLOCK, random.Random(0)).new)
    scores = [Score(-float(place + 1)) for place in range(len(ids))]
    out = writer.write(Delta(0, 0, ids, scores))
    assert text(out) == "the weat"
    noted = [one for event in out if isinstance(event, Text) for one in event.logprobs or ()]
    assert [one.logprob for one in noted] == [score.logprob for score in scores]

"""From the tokens of a known text to events, without a model."""

import random

import pytest

from headgate.backends.detokenize import Vocabulary
from headgate.backends.dialect import HERMES, LLAMA, THINKING, CallForm, Dialect, Family
from headgate.backends.embedded_stream import ChoiceWriter, Form
from headgate.core.events import Event, Finish, Reasoning, Text, ToolDelta
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


def test_what_stopped_an_answer_can_stay_and_special_tokens_can_be_shown() -> None:
    for text_shown, stops in (("one two", ["wo", "two t"]), ("one t", ["t"]), ("one two three", ["four"])):
        out, _ = write("one two three", Form(stops=stops, keep_stop=True))
        assert (text(out), reason(out)) == (text_shown, "stop")
    end = end_token()
    for keep, special, shown in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (1, 1, "a<|im_end|>")):
        form = Form(ends=frozenset({end}), keep_stop=bool(keep), show_special=bool(special))
        assert text(write("a", form)[0]) == shown
    assert text(write("<|im_start|>a", Form(show_special=True), finish="length")[0]) == "<|im_start|>a<|im_end|>"


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
    form = Form(tools=frozenset({"get_weather"}), forced=True, dialect=thinking(), thinking="may", stops=stops)
    out, _ = write(THOUGHT + '<tool_call>\n{"name": "get', form, finish=finish)
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


def thinking(family: Family = "hermes", calls: CallForm = HERMES) -> Dialect:
    return Dialect(family, calls, THINKING[0])


THOUGHT = "<think>\nIt is warm. Or is it?\n</think>\n\n"


@pytest.mark.parametrize("merge", [1, 3, 1000])
@pytest.mark.parametrize("opened", [True, False])
def test_reasoning_comes_apart_and_is_counted(merge: int, opened: bool) -> None:
    made = folders.tokenizer()
    given = THOUGHT.removeprefix("<think>") if opened else THOUGHT
    form = Form(dialect=thinking(), thinking="open" if opened else "may", stops=["warm"])
    out, writer = write(given + "It is fine.", form, merge=merge, finish="length")
    thought = "".join(event.text for event in out if isinstance(event, Reasoning))
    assert thought == "It is warm. Or is it?"  # what would stop the answer does not stop the reasoning
    assert text(out) == "It is fine."
    counted = len(made.encode(given, add_special_tokens=False).ids)
    assert counted - 2 <= writer.reasoning <= counted
    assert writer.reasoning < writer.tokens
    assert reason(out) == "length"


def test_the_answer_behind_the_reasoning_is_stopped_and_has_the_logprobs() -> None:
    made = folders.tokenizer()
    ids = made.encode(THOUGHT + "It is warm.", add_special_tokens=False).ids
    form = Form(dialect=thinking(), thinking="may", stops=["warm"])
    writer = ChoiceWriter(0, form, Vocabulary(made), Ids(CLOCK, random.Random(0)).new)
    out = writer.write(Delta(0, 0, ids, [Score(-1.0) for _ in ids]))
    assert text(out) == "It is "
    assert reason(out) == "stop"
    noted = [one for event in out if isinstance(event, Text) for one in event.logprobs or ()]
    assert bytes(byte for one in noted for byte in one.bytes).decode().startswith("It is ")
    assert len(noted) < len(ids) - writer.reasoning


@pytest.mark.parametrize("answer", ["🙂 fine", "\n\n", "<b>", "<", "<thin"])
@pytest.mark.parametrize("merge", [1, 1000])
def test_an_answer_without_the_reasoning_that_might_have_come_has_all_logprobs(answer: str, merge: int) -> None:
    made = folders.tokenizer()
    ids = made.encode(answer, add_special_tokens=False).ids
    form = Form(dialect=thinking(), thinking="may")
    writer = ChoiceWriter(0, form, Vocabulary(made), Ids(CLOCK, random.Random(0)).new)
    out: list[Event] = []
    for at in range(0, len(ids), merge):
        part = ids[at : at + merge]
        out += writer.write(
            Delta(0, 0, part, [Score(-1.0) for _ in part], "length" if at + merge >= len(ids) else None)
        )
    assert text(out) == answer
    noted = [one for event in out if isinstance(event, Text) for one in event.logprobs or ()]
    assert bytes(byte for one in noted for byte in one.bytes).decode() == answer
    assert writer.reasoning == 0


def test_reasoning_can_be_left_out_and_counts_all_the_same() -> None:
    form = Form(dialect=thinking(), thinking="may", show_reasoning=False)
    out, writer = write(THOUGHT + "fine", form)
    assert not any(isinstance(event, Reasoning) for event in out)
    assert text(out) == "fine"
    assert writer.reasoning > 0


def test_reasoning_that_never_ends_is_all_there_is() -> None:
    out, writer = write("still thinking </thi", Form(dialect=thinking(), thinking="open"), finish="length")
    assert [event.text for event in out if isinstance(event, Text)] == []
    assert "".join(event.text for event in out if isinstance(event, Reasoning)) == "still thinking </thi"
    assert writer.reasoning == writer.tokens


@pytest.mark.parametrize("merge", [1, 1000])
def test_a_call_behind_the_reasoning_is_found_in_the_models_own_form(merge: int) -> None:
    given = THOUGHT + '{"name": "f", "parameters": {"x": 1}}; {"name": "g", "parameters": {}}'
    form = Form(
        dialect=thinking("llama", LLAMA), thinking="may", tools=frozenset({"f", "g"}), ends=frozenset({end_token()})
    )
    out, _ = write(given, form, merge=merge)
    assert [event.name for event in out if isinstance(event, ToolDelta) and event.name] == ["f", "g"]
    assert "".join(event.arguments for event in out if isinstance(event, ToolDelta)) == '{"x": 1}{}'
    assert reason(out) == "tool_calls"
    assert text(out) == ""


def end_token() -> int:
    return folders.tokenizer().get_vocab()["<|im_end|>"]


def test_a_marker_that_is_a_special_token_is_read_only_where_it_is_looked_for() -> None:
    made = folders.tokenizer()
    made.add_special_tokens(["<think>", "</think>"])
    ids = made.encode("<think>a</think>b", add_special_tokens=False).ids
    tokens = {marker: made.get_vocab()[marker] for marker in ("<think>", "</think>")}
    for state, expected in (("may", "b"), ("none", "ab")):
        form = Form(
            dialect=Dialect("hermes", HERMES, THINKING[0], tokens), thinking="may" if state == "may" else "none"
        )
        writer = ChoiceWriter(0, form, Vocabulary(made), Ids(CLOCK, random.Random(0)).new)
        assert text(writer.write(Delta(0, 0, ids, None, "length"))) == expected

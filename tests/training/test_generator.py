"""The text generator: the same seed gives the same text, and every example is right by its own measure."""

import json
import random
from itertools import islice, pairwise

import pytest

from headgate.training import mixture
from headgate.training.evaluate import score, score_api, table
from headgate.training.example import Example, calls_in
from headgate.training.skills import arithmetic, quote
from headgate.training.template import render_prompt, render_whole

SKILLS = sorted(mixture.SKILLS)


def drawn(skill: str, count: int = 150) -> list[Example]:
    rng = random.Random(f"test/{skill}")
    return [mixture.draw(skill, rng, "train") for _ in range(count)]


def test_the_same_seed_gives_the_same_text() -> None:
    first = [render_whole(example) for example in islice(mixture.stream(11), 200)]
    again = [render_whole(example) for example in islice(mixture.stream(11), 200)]
    other = [render_whole(example) for example in islice(mixture.stream(12), 200)]
    assert first == again
    assert first != other


def test_every_skill_is_in_the_mixture_and_the_shares_add_up_to_one() -> None:
    assert set(mixture.SHARES) == set(mixture.SKILLS)
    assert sum(mixture.SHARES.values()) == pytest.approx(1.0)
    assert {example.skill for example in islice(mixture.stream(1), 400)} == set(mixture.SKILLS)


@pytest.mark.parametrize("skill", SKILLS)
def test_each_expected_answer_passes_its_own_check_and_a_wrong_one_does_not(skill: str) -> None:
    for example in drawn(skill):
        assert example.skill == skill
        assert mixture.passes(example, example.answer_text())
        assert not mixture.passes(example, example.answer_text() + " 7777")
        assert not mixture.passes(example, "")


@pytest.mark.parametrize("skill", SKILLS)
def test_each_example_ends_with_a_user_or_tool_turn_and_roles_follow_each_other(skill: str) -> None:
    for example in drawn(skill):
        roles = [turn.role for turn in example.turns]
        assert roles[-1] in ("user", "tool")
        assert "system" not in roles[1:]
        assert all(before != after or before == "tool" for before, after in pairwise(roles))


@pytest.mark.parametrize("skill", SKILLS)
def test_training_and_held_out_problems_do_not_overlap(skill: str) -> None:
    kept = {example.key for example in drawn(skill, 400)} - {""}
    apart = {example.key for example in mixture.held_out(skill, seed=5, count=60)} - {""}
    assert not kept & apart
    assert bool(apart) == (skill != "talk")


def test_held_out_examples_do_not_depend_on_how_many_are_asked_for() -> None:
    few = [render_prompt(example) for example in mixture.held_out("tools", seed=3, count=5)]
    many = [render_prompt(example) for example in mixture.held_out("tools", seed=3, count=20)]
    assert many[:5] == few


def test_worked_sums_are_right_at_every_step() -> None:
    rng = random.Random(4)
    for _ in range(300):
        a, b = sorted((rng.randint(0, 999), rng.randint(0, 999)), reverse=True)
        for sign in "+-":
            for step in arithmetic.working(a, sign, b).split("; "):
                told, result = step.split(" = ")
                terms = told.split(f" {sign} ")
                rest = sum(int(term) for term in terms[1:])
                assert int(terms[0]) + (rest if sign == "+" else -rest) == int(result)
            assert arithmetic.solution(a, sign, b).endswith(f"= {arithmetic.value(a, sign, b)}")


def test_a_quoted_answer_stands_in_the_passage_word_for_word_or_says_that_it_is_absent() -> None:
    absent = 0
    for example in drawn("quote", 300):
        passage = " ".join(turn.content for turn in example.turns if turn.role != "assistant")
        absent += example.answer.content == quote.ABSENT
        assert example.answer.content in (
            *[passage[at:][: len(example.answer.content)] for at in range(len(passage))],
            quote.ABSENT,
        )
    assert 20 < absent < 150


def test_schema_answers_have_exactly_the_fields_and_types_asked_for() -> None:
    kinds = {"string": str, "integer": int, "boolean": bool}
    for example in drawn("schema"):
        assert example.schema is not None
        filled, fields = json.loads(example.answer.content), example.schema["properties"]
        assert list(filled) == list(fields)
        for key, field in fields.items():
            assert type(filled[key]) is kinds[field["type"]]
            assert "enum" not in field or filled[key] in field["enum"]


def test_tool_calls_name_a_tool_that_was_given_and_fill_all_its_arguments() -> None:
    called = 0
    for example in drawn("tools", 300):
        given = {tool["function"]["name"]: tool["function"]["parameters"] for tool in example.tools}
        for call in calls_in(example.answer_text()):
            called += 1
            assert set(call["arguments"]) == set(given[call["name"]]["required"])
    assert called > 100


def test_a_perfect_answerer_gets_a_perfect_table_and_a_silent_one_nothing() -> None:
    perfect = score(lambda example: example.answer_text(), seed=2, count=10)
    assert all(line.right == line.count == 10 for line in perfect)
    silent = score_api(lambda messages, tools, schema: "", seed=2, count=10)
    assert all(line.right == 0 for line in silent)
    assert "| quote | 10 | 10 | 100.0% |" in table(perfect)

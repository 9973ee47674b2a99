"""Schemas as applications write them: a model of random weights answers validly, another validator says."""

import random
from collections import Counter

import pytest

from tests.engine.schemas import walk
from tests.engine.schemas.generate import Maker


def answered(seeds: range, answers: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    rng = random.Random(seeds.stop)
    for seed in seeds:
        schema = Maker(seed).schema()
        seen["schemas"] += 1
        for _ in range(answers):
            text = walk.answer(walk.held(schema), rng)
            seen["answers" if text is not None else "answers without end"] += 1
            assert text is None or walk.wrong(schema, text) is None, (seed, schema)
    return seen


def test_answers_to_generated_schemas_are_valid() -> None:
    seen = answered(range(1000, 1030), 2)
    assert seen["answers"] > 55


@pytest.mark.prove
def test_answers_to_five_hundred_generated_schemas_are_valid() -> None:
    seen = answered(range(500), 10)
    print(dict(seen))
    assert seen["schemas"] == 500
    assert seen["answers without end"] < 0.01 * seen["answers"]

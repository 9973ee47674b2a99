"""Over the JSON Schema Test Suite: a schema is refused by keyword and path, or all of it is enforced."""

import random
import re
from collections import Counter
from typing import Any

import pytest

from headgate.core.errors import BadCall
from tests.engine.schemas import suite, walk

ANSWERS = 10
PLACE = re.compile(r"^structured_outputs\.json: (\S+): '([^']+)' cannot be enforced")
NO_VALUE = "nsatisfiable"
"""Said of schemas that no value satisfies; some of them have no keyword to blame but `false`."""
UNKNOWN_TO_PYTHON = r"\p{"
"""In a pattern: the validator cannot read it."""


def refused(schema: dict[str, Any]) -> str | None:
    try:
        walk.held(schema)
    except BadCall as error:
        return error.message
    return None


@pytest.mark.prove
def test_every_answer_is_valid_and_every_refusal_names_its_keyword() -> None:
    seen: Counter[str] = Counter()
    rng = random.Random(5)
    for case in suite.cases():
        seen["schemas"] += 1
        refusal = refused(case.schema)
        if refusal is not None:
            seen["refused"] += 1
            place = PLACE.match(refusal)
            assert NO_VALUE in refusal if place is None else place[1].endswith(place[2]), (case.name, refusal)
            continue
        seen["enforced"] += 1
        for _ in range(0 if UNKNOWN_TO_PYTHON in str(case.schema) else ANSWERS):
            text = walk.answer(walk.held(case.schema), rng)
            seen["answers" if text is not None else "answers without end"] += 1
            assert text is None or walk.wrong(case.schema, text) is None, case.name
        for instance in case.invalid:
            seen["invalid instances, kept out"] += 1
            assert not walk.accepts(case.schema, instance), (case.name, instance)
        for instance in case.valid:
            seen["valid instances, let through" if walk.accepts(case.schema, instance) else "valid, left out"] += 1
    print(dict(seen))
    assert seen["enforced"] > 300
    assert seen["answers without end"] < 0.01 * seen["answers"]
    assert seen["valid, left out"] < 0.1 * seen["valid instances, let through"]

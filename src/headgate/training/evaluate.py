"""The skill table: how many held-out examples of each skill are answered rightly, by whatever answers."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from headgate.training.example import Example, Json
from headgate.training.mixture import SKILLS, held_out, passes

Complete = Callable[[Sequence[dict[str, Json]], Sequence[dict[str, Json]], dict[str, Json] | None], str]


class Score(msgspec.Struct, frozen=True):
    """How one skill went."""

    skill: str
    right: int
    count: int


def score(
    answer: Callable[[Example], str], seed: int, count: int, skills: Iterable[str] = tuple(SKILLS)
) -> list[Score]:
    """One score per skill over `count` held-out examples each; `answer` gives the text for an example."""
    return [
        Score(skill, sum(passes(example, answer(example)) for example in held_out(skill, seed, count)), count)
        for skill in skills
    ]


def score_api(complete: Complete, seed: int, count: int) -> list[Score]:
    """The same table through any `complete(messages, tools, schema)`, such as a call over HTTP.

    `complete` gives the text of the answer; calls of tools stand in it as `example.call_text` writes them.
    """
    return score(
        lambda example: complete([turn.wire() for turn in example.turns], example.tools, example.schema), seed, count
    )


def table(scores: Iterable[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| skill | right | of | share |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {s.skill} | {s.right} | {s.count} | {s.right / s.count:.1%} |" for s in scores]
    return "\n".join(lines)

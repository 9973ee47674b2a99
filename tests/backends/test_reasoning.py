"""Reasoning is told apart from the answer, wherever the text is cut."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.dialect import THINKING, Thinking
from headgate.backends.reasoning import Thoughts

THINK = THINKING[0]


def split(
    text: str, at: Sequence[int] = (), *, opened: bool = False, thinking: Thinking = THINK
) -> tuple[str, str, bool]:
    reader = Thoughts(thinking, opened=opened)
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    parts = [reader.feed(text[start:end]) for start, end in pairwise(borders)]
    parts.append(reader.flush())
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts), reader.begun


@pytest.mark.parametrize("thinking", THINKING)
def test_what_stands_between_the_markers_is_reasoning(thinking: Thinking) -> None:
    text = f"{thinking.begin}\nFirst, é.\n\nThen so.\n{thinking.end}\n\nThe answer."
    expected = ("First, é.\n\nThen so.", "The answer.", True)
    for at in ((), range(len(text))):
        assert split(text, at, thinking=thinking) == expected
        assert split(text[len(thinking.begin) :], at, opened=True, thinking=thinking) == expected
        assert split(text, at, opened=True, thinking=thinking) == expected


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        ("An answer.", False, ("", "An answer.", False)),
        ("  An answer.", False, ("", "  An answer.", False)),
        ("Say <think>x</think>", False, ("", "Say <think>x</think>", False)),
        ("<thin", False, ("", "<thin", False)),
        ("<thing> is", False, ("", "<thing> is", False)),
        ("<think>cut off", False, ("cut off", "", True)),
        ("cut off </thi", True, ("cut off </thi", "", True)),
        ("<think></think>a", False, ("", "a", True)),
        ("a</think>b</think>c", True, ("a", "b</think>c", True)),
        ("<think>a<think>b</think>c", False, ("a<think>b", "c", True)),
        ("", False, ("", "", False)),
        ("", True, ("", "", True)),
        ("a </b> \n</think> \n", True, ("a </b>", "", True)),
    ],
)
def test_what_is_cut_or_missing_loses_nothing(text: str, opened: bool, expected: tuple[str, str, bool]) -> None:
    for at in ((), range(len(text))):
        assert split(text, at, opened=opened) == expected


PARTS = st.sampled_from(["<think>", "</think>", "<", "</th", "think>", " ", "\n", "a", "é🙂", "</"])


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS, max_size=12), at=st.lists(st.integers(0, 99), max_size=9), opened=st.booleans())
def test_any_text_is_split_the_same_wherever_it_is_cut(parts: list[str], at: list[int], opened: bool) -> None:
    text = "".join(parts)
    thought, answer, begun = split(text, at, opened=opened)
    assert (thought, answer, begun) == split(text, opened=opened) == split(text, range(99), opened=opened)
    lost = Counter("".join(text.split())) - Counter("".join((thought + answer).split()))
    assert lost in [Counter(markers) for markers in ("", "<think>", "</think>", "<think></think>")]
    rest = iter(text)
    assert all(character in rest for character in thought + answer)  # in order, nothing made up
    if not begun:
        assert (thought, answer) == ("", text)


def test_space_without_end_is_not_held_without_end() -> None:
    reader = Thoughts(THINK, opened=True)
    assert reader.feed("a") == ("a", "")
    shown = "".join(reader.feed(" " * 100)[0] for _ in range(100))
    assert len(shown) > 5000

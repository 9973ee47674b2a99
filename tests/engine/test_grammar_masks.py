"""Masks beside the forward pass: in order, with drafts rolled back, and errors where they are asked for."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.grammars.masks import LARGE_BYTES, MaskWork
from tests.engine.schemas import walk


class Fake:
    """A constraint whose masks say which it is and for what draft, and which thread computed them."""

    ended = failed = False

    def __init__(self, number: int, size: int = LARGE_BYTES) -> None:
        self.number = number
        self.size = size
        self.threads: set[int] = set()

    def fits(self, tokens: tuple[int, ...]) -> int:
        return len(tokens)

    def forced(self) -> tuple[int, ...]:
        return ()

    def masks(self, draft: tuple[int, ...] = ()) -> tuple[bytes, ...]:
        self.threads.add(threading.get_ident())
        return tuple(bytes([self.number, token]).ljust(self.size, b"\0") for token in (0, *draft))

    def consume(self, tokens: tuple[int, ...]) -> None: ...


class Broken(Fake):
    def masks(self, draft: tuple[int, ...] = ()) -> tuple[bytes, ...]:
        raise RuntimeError("broken")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 255), max_size=4), max_size=20), st.integers(1, 3))
def test_masks_come_in_the_order_of_the_samples(drafts: list[list[int] | None], threads: int) -> None:
    work = MaskWork(threads)
    wanted = [None if draft is None else (Fake(at), tuple(draft)) for at, draft in enumerate(drafts)]
    try:
        for _ in range(3):  # by the caller at first, then by threads
            masks = work.start(wanted).result()
            assert [None if rows is None else [row[:2] for row in rows] for rows in masks] == [
                None if draft is None else [bytes([at, token]) for token in (0, *draft)]
                for at, draft in enumerate(drafts)
            ]
    finally:
        work.close()


def test_large_masks_are_computed_aside_and_small_ones_are_not() -> None:
    for size, aside in ((LARGE_BYTES, True), (LARGE_BYTES - 1, False)):
        work, fake = MaskWork(), Fake(1, size)
        for _ in range(2):
            work.start([(fake, ())]).result()
        work.close()
        assert fake.threads == {threading.get_ident()} or aside
        assert len(fake.threads) == 1 + aside


def test_an_error_comes_out_where_the_masks_are_asked_for_and_the_next_step_goes_on() -> None:
    work = MaskWork(2)
    work.start([(Fake(0), ())]).result()
    handle = work.start([(Fake(1), ()), (Broken(2), ())])
    with pytest.raises(RuntimeError, match="broken"):
        handle.result()
    assert work.start([(Fake(1), ())]).result() != ()
    work.close()


def test_masks_along_a_draft_are_those_of_each_place_and_leave_nothing_behind() -> None:
    schema = {"type": "array", "items": {"enum": [1, 22]}, "minItems": 1}
    draft = tuple(walk.TOKENIZER.encode("[22, 1]").ids)
    stepped, drafted = walk.held(schema), walk.held(schema)
    assert drafted.fits((*draft, walk.END, walk.END)) == len(draft) + 1
    rows = drafted.masks(draft)
    for token, row in zip((*draft, None), rows, strict=True):
        assert stepped.masks() == (row,)
        if token is not None:
            stepped.consume((token,))
    assert stepped.ended
    assert not drafted.ended
    drafted.consume(draft)
    assert drafted.ended


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, walk.SIZE - 1), max_size=5), st.integers(0, 6))
def test_no_draft_breaks_a_matcher(draft: list[int], before: int) -> None:
    """However wrong, and behind the end too."""
    matcher = walk.held({"enum": ["ab", 7]})
    matcher.consume(tuple(walk.TOKENIZER.encode('"ab"').ids[:before]))
    once = matcher.masks()
    rows = matcher.masks(tuple(draft))
    assert len(rows) == len(draft) + 1
    assert rows[:1] == once == matcher.masks()
    fitting = matcher.fits(tuple(draft))
    assert 0 <= fitting <= len(draft)
    matcher.consume(tuple(draft[:fitting]))
    assert not matcher.failed


def test_what_is_forced_fits_and_ends_where_there_is_a_choice() -> None:
    matcher = walk.held({"type": "object", "properties": {"n": {"enum": ["one", "two"]}}, "required": ["n"]})
    forced = matcher.forced()
    assert walk.TOKENIZER.decode(list(forced)).startswith('{"n": ')
    assert matcher.fits(forced) == len(forced)
    matcher.consume(forced)
    assert not matcher.failed
    free = walk.held({"type": "string"})
    free.consume(tuple(walk.TOKENIZER.encode('"a').ids))
    assert free.forced() == ()


def test_a_failed_matcher_answers_every_question() -> None:
    matcher = walk.held({"type": "integer"})
    matcher.consume((walk.END,))
    assert matcher.failed
    assert matcher.fits((1, 2)) == 0
    assert matcher.forced() == ()
    assert len(matcher.masks((1, 2, 3))) == 4
    matcher.consume((1,))
    assert not matcher.ended

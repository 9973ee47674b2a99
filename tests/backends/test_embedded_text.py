"""Text out of tokens: whole code points, no leaked stop text, tool calls found wherever the text is cut."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from headgate.backends.detokenize import Detokenizer, StopText, Vocabulary
from tests.backends import folders

TOKENIZER = folders.tokenizer()
VOCABULARY = Vocabulary(TOKENIZER)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(folders.SAMPLE)


def cuts(text: str, at: Sequence[int]) -> list[str]:
    borders = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in pairwise(borders)]


@settings(deadline=None)
@given(TEXTS)
def test_tokens_one_by_one_give_the_text_that_was_encoded(text: str) -> None:
    detokenizer = Detokenizer(VOCABULARY)
    pieces = [detokenizer.feed(token) for token in TOKENIZER.encode(text, add_special_tokens=False).ids]
    assert not any("\ufffd" in piece for piece in pieces if "\ufffd" not in text)
    assert "".join(pieces) + detokenizer.flush() == text


@settings(deadline=None)
@given(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30))
def test_any_tokens_one_by_one_give_what_they_give_together(tokens: list[int]) -> None:
    detokenizer = Detokenizer(VOCABULARY)
    together = b"".join(map(VOCABULARY.text, tokens)).decode("utf-8", "replace")
    assert "".join(map(detokenizer.feed, tokens)) + detokenizer.flush() == together
    markers = {TOKENIZER.token_to_id("<tool_call>"), TOKENIZER.token_to_id("</tool_call>")}
    if not markers & set(tokens):
        assert together == TOKENIZER.decode(tokens, skip_special_tokens=True)


def test_special_tokens_are_no_text_but_for_those_that_somebody_reads() -> None:
    ids = TOKENIZER.encode("<|im_start|>a<tool_call>b</tool_call><|im_end|>", add_special_tokens=False).ids
    detokenizer = Detokenizer(VOCABULARY)
    assert "".join(map(detokenizer.feed, ids)) == "a<tool_call>b</tool_call>"
    detokenizer = Detokenizer(VOCABULARY, shown={ids[0]})
    assert "".join(map(detokenizer.feed, ids)) == "<|im_start|>a<tool_call>b</tool_call>"


def test_sentencepiece_style_tokens_are_read_too() -> None:
    vocabulary = {"<unk>": 0, "▁Gr": 1, "<0xC3>": 2, "<0xBC>": 3, "zi▁": 4, "▁du": 5}
    made = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    table = Vocabulary(made)
    for at_start, expected in ((True, "Grüzi  du"), (False, " Grüzi  du")):
        detokenizer = Detokenizer(table, at_start=at_start)
        assert [detokenizer.feed(token) for token in (1, 2, 3)][1:] == ["", "ü"]
        assert expected.startswith(" Gr" if not at_start else "Gr")
    detokenizer = Detokenizer(table, at_start=True)
    assert "".join(map(detokenizer.feed, (1, 2, 3, 4, 5))) == made.decode([1, 2, 3, 4, 5])


def test_tokenizers_whose_tokens_are_no_text_are_refused() -> None:
    made = Tokenizer(models.WordPiece({"a": 0}))
    made.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="WordPiece"):
        Vocabulary(made)


def first_complete(text: str, stops: Sequence[str]) -> str:
    """The text before the stop that is complete first, found by looking at every beginning of the text."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@settings(max_examples=400, deadline=None)
@given(
    text=st.text("abÉ", max_size=30),
    stops=st.lists(st.text("abÉ", max_size=4), max_size=3),
    at=st.lists(st.integers(0, 40), max_size=10),
)
def test_a_stop_text_ends_the_answer_the_same_wherever_it_is_cut(text: str, stops: list[str], at: list[int]) -> None:
    scanner = StopText(stops)
    shown = ""
    for piece in cuts(text, at):
        shown += scanner.feed(piece)
        assert not any(stop in shown for stop in stops if stop)
    shown += "" if scanner.stopped else scanner.flush()
    assert shown == first_complete(text, stops)
    assert scanner.stopped == (shown != text or any(stop and text.endswith(stop) for stop in stops))


def test_only_what_may_begin_a_stop_text_is_held_back() -> None:
    scanner = StopText(["END", "\n\n"])
    assert scanner.feed("one\n") == "one"
    assert scanner.feed("two E") == "\ntwo "
    assert scanner.feed("N") == ""
    assert scanner.feed("d") == "ENd"
    assert scanner.flush() == ""

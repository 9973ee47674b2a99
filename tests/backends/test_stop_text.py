"""Stop texts across the borders of tokens: whatever tokens a text comes in, it is cut as the whole text would be."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.detokenize import Detokenizer, StopText, Vocabulary
from tests.backends import folders

VOCABULARY = Vocabulary(folders.tokenizer())
SINGLE = {VOCABULARY.raw(token): token for token in range(len(VOCABULARY)) if len(VOCABULARY.raw(token)) == 1}
PIECES = {
    piece: token
    for token in range(len(VOCABULARY))
    if token not in VOCABULARY.special and (piece := VOCABULARY.raw(token))
}
TEXTS = st.text(st.sampled_from("abÉ é🙂\n<"), max_size=24) | st.sampled_from(folders.SAMPLE)
STOPS = st.lists(st.text(st.sampled_from("abÉé🙂\n<"), max_size=5), max_size=4)


def cut(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the stop that is complete first; of several complete at once, the one that begins first."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)], True
    return text, False


@st.composite
def tokenised(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A text, and any tokens at all that spell it."""
    text = draw(TEXTS)
    data, tokens = text.encode(), []
    while data:
        fits = [length for length in range(1, min(len(data), VOCABULARY.longest) + 1) if data[:length] in PIECES]
        length = draw(st.sampled_from(fits))
        tokens.append(PIECES[data[:length]])
        data = data[length:]
    return text, tokens


def shown(tokens: list[int], stops: list[str]) -> Iterator[str]:
    detokenizer, stop = Detokenizer(VOCABULARY), StopText(stops)
    for token in tokens:
        yield stop.feed(detokenizer.feed(token))
    yield stop.feed(detokenizer.flush())
    yield "" if stop.stopped else stop.flush()


@settings(max_examples=100, deadline=None)
@given(tokenised(), STOPS)
def test_any_tokens_of_a_text_are_cut_as_the_whole_text(made: tuple[str, list[int]], stops: list[str]) -> None:
    text, tokens = made
    expected, _ = cut(text, stops)
    assert "".join(shown(tokens, stops)) == expected


@settings(max_examples=80, deadline=None)
@given(tokenised(), STOPS)
def test_what_is_shown_is_never_taken_back_and_never_later_than_it_must(
    made: tuple[str, list[int]], stops: list[str]
) -> None:
    """After each token exactly so much is held back as may be the beginning of a stop text."""
    _, tokens = made
    detokenizer, stop = Detokenizer(VOCABULARY), StopText(stops)
    seen, out = "", ""
    for token in tokens:
        piece = detokenizer.feed(token)
        seen += piece
        out += stop.feed(piece)
        if stop.stopped:
            assert (out, True) == cut(seen, stops)
            return
        held = max((n for s in stops for n in range(1, len(s)) if seen.endswith(s[:n])), default=0)
        assert out == seen[: len(seen) - held]


@settings(max_examples=100, deadline=None)
@given(TEXTS, STOPS)
def test_after_a_stop_nothing_comes(text: str, stops: list[str]) -> None:
    stop = StopText(stops)
    out = stop.feed(text)
    assert stop.stopped == cut(text, stops)[1]
    if stop.stopped:
        assert (stop.feed("more"), stop.flush(), stop.feed("")) == ("", "", "")
    else:
        assert out + stop.flush() == text


def test_a_stop_text_inside_of_one_token_and_over_many() -> None:
    assert [*map("".join, [shown([SINGLE[b"a"], SINGLE[b"b"], SINGLE[b"a"]], ["ba"])])] == ["a"]
    stop = StopText(["bc"])
    assert stop.feed("abcdbc") == "a"
    assert stop.stopped


def test_half_a_character_is_no_stop_and_is_told_at_the_end() -> None:
    first = "é".encode()[:1]
    assert "".join(shown([SINGLE[b"a"], SINGLE[first]], ["é"])) == "a\ufffd"
    assert "".join(shown([SINGLE[b"a"], SINGLE[first]], ["\ufffd"])) == "a"

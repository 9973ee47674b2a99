"""The tokenizer: byte-level BPE of some two thousand tokens, learnt from the generator's text.

Digits stand alone, and so does the space before all but the most frequent words. A word copied from a sentence into a
JSON string is then the same tokens in both places, and copying needs no spelling.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from headgate.training.mixture import stream
from headgate.training.template import render_whole
from headgate.training.words import listed

END = "<|im_end|>"
START = "<|im_start|>"
END_OF_TEXT = "<|endoftext|>"
SPECIALS = (END_OF_TEXT, START, END)
MARKS = ("<tool_call>", "</tool_call>")

_JOINED = listed(
    "Headgate JSON So a about add after am an and answer are as assistant at based be between by called calls "
    "can classify concert costs  current demonstration details did do does each employees every exactly "
    "festival fill for found founded from give has have help helpful  how i in into is it its know like listed "
    "live made makes many market mayor me minus minutes model models much my not of old on one only  or "
    "parameters passage please plus population question quote repeat river run say says she short since so "
    "some speaks sums takes text  than that the there they this through times to tool tools trained two use "
    "very want was well were what when where which who with words  work year years you your "
)
_JSON = (r'": "', r'", "', r'": ', r', "', r'\{"', r'"\}\}', r'"\}', r"\}\}")
PATTERN = "|".join(
    (
        *_JSON,
        r" [+*=\-] ",
        " (?:" + "|".join(_JOINED) + r")(?![\p{L}\p{N}])",
        r"\p{L}+",
        r"\p{N}",
        r"\n+",
        r"'(?:s|m|re|t|ll|ve)(?!\p{L})",
        r"[^\s\p{L}\p{N}]",
        r" ",
        r"\s",
    )
)


def _texts(seed: int, count: int) -> Iterator[str]:
    for example in islice(stream(seed), count):
        text = render_whole(example)
        for token in (*SPECIALS, *MARKS):
            text = text.replace(token, "\n")
        yield text


def build(seed: int, vocabulary: int, examples: int = 30_000) -> Tokenizer:
    """The tokenizer learnt from that many examples; the same one for the same arguments."""
    return train(_texts(seed, examples), vocabulary)


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of exactly the given size at most, special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(MARKS),
        min_frequency=3,
        show_progress=False,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    # not special: a detokeniser that skips special tokens must still show tool calls
    tokenizer.add_tokens([AddedToken(mark, normalized=False, special=False) for mark in MARKS])
    return tokenizer

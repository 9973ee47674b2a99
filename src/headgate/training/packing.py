"""From examples to rows of token ids: what is learnt from, and how rows of like length are put together."""

import random
from collections.abc import Iterator, Sequence

import msgspec
from tokenizers import Tokenizer

from headgate.training.bpe import END, START
from headgate.training.example import Example
from headgate.training.template import render_whole

LONGEST = 768
POOL_STEPS = 12


class Row(msgspec.Struct, frozen=True):
    """One conversation in token ids; `learnt[i]` says that token i was written by the assistant."""

    ids: list[int]
    learnt: list[bool]


class Batch(msgspec.Struct, frozen=True):
    """Rows padded on the right to one length. `targets[i]` is the token after i.

    `said` marks the targets written by the assistant, `asked` those of the prompt; padding is neither.
    """

    ids: list[list[int]]
    targets: list[list[int]]
    said: list[list[bool]]
    asked: list[list[bool]]


class Packer:
    """Turns examples into rows and batches with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._end = tokenizer.get_vocab()[END]
        self._opening: list[int] = tokenizer.encode(f"{START}assistant\n", add_special_tokens=False).ids

    def row(self, example: Example) -> Row:
        """The whole conversation; every assistant turn is learnt, its end token included."""
        ids: list[int] = self._tokenizer.encode(render_whole(example), add_special_tokens=False).ids
        learnt = [False] * len(ids)
        width = len(self._opening)
        inside = False
        for at, token in enumerate(ids):
            learnt[at] = inside
            if token == self._end:
                inside = False
            elif ids[max(0, at + 1 - width) : at + 1] == self._opening:
                inside = True
        return Row(ids, learnt)

    def steps(self, examples: Iterator[Example], rng: random.Random, micro: int, batches: int) -> Iterator[list[Batch]]:
        """For each step that many batches of at most `micro` padded tokens.

        Rows are sorted by length over `POOL_STEPS` steps before they are grouped, which leaves little padding, and
        the groups are shuffled, so that a step holds several lengths.
        """
        rows: list[Row] = []
        held = 0
        for example in examples:
            row = self.row(example)
            if len(row.ids) > LONGEST:
                continue
            rows.append(row)
            held += len(row.ids)
            if held >= POOL_STEPS * batches * micro:
                groups = list(_groups(rows, micro))
                rng.shuffle(groups)
                for at in range(0, len(groups) - batches + 1, batches):
                    yield groups[at : at + batches]
                rows, held = [], 0


def _groups(rows: list[Row], micro: int) -> Iterator[Batch]:
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        if group and len(row.ids) * (len(group) + 1) > micro:
            yield _padded(group)
            group = []
        group.append(row)
    if group:
        yield _padded(group)


def _padded(rows: Sequence[Row]) -> Batch:
    longest = max(len(row.ids) for row in rows) - 1
    ids, targets, said, asked = [], [], [], []
    for row in rows:
        gap = longest - len(row.ids) + 1
        ids.append(row.ids[:-1] + [0] * gap)
        targets.append(row.ids[1:] + [0] * gap)
        said.append(row.learnt[1:] + [False] * gap)
        asked.append([not learnt for learnt in row.learnt[1:]] + [False] * gap)
    return Batch(ids, targets, said, asked)

"""Drawing the next token from logits: the reference that every runner follows.

The order, which matters because filters do not commute (it is vLLM's):
log-probabilities are reported from the raw logits; then the grammar mask, or else the suppression of end tokens before
`min_tokens`; the logit bias; the penalties (repetition over prompt and output; presence and frequency over the output
only); temperature; min-p; top-k, ties at the border kept; top-p over what is left; the draw. Where tokens are verified,
the tokens of the draft before a row count as output for it.

Random numbers are counter-based: one uniform number per (seed, choice, position, purpose), from BLAKE2b. A sequence's
text therefore depends neither on its neighbours in the batch nor on having been preempted.
"""

from collections.abc import Callable, Sequence
from itertools import islice, pairwise

import numpy as np

from headgate.engine.plan import GREEDY_BELOW, Masks, SampleSpec, SamplingParams, Score, StepResult
from headgate.engine.sampling.adjust import adjust, adjusts, at_row
from headgate.engine.sampling.draws import DRAW, Floats, Row, filtered, pick, uniform
from headgate.engine.sampling.scores import scores
from headgate.engine.sampling.spread import Spread
from headgate.engine.sampling.verify import by_rejection, compared, proposed, rejected

CHUNK = 2**18
"""Logits handled at once: many rows of a small vocabulary, one of a large one, which then stays in the cache."""
FEW = 6
SHORT = 2**14
"""Up to so many rows, of up to so many logits, are drawn from one by one: fixed costs would be more."""


def sample(logits: Floats, samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
    """Tokens for each sample from its rows of `logits`, [rows, vocabulary]: 1 + the tokens of its draft."""
    rows: dict[int, list[Row]] = {}
    if not any(masks) and all(_plain_greedy(spec) for spec in samples):
        drawn = logits.argmax(axis=1).tolist()
    else:
        drawn, rows = _draw(logits, samples, masks)
    kept: list[tuple[int, ...]] = []
    start = 0
    for index, spec in enumerate(samples):
        if spec.draft is None:
            kept.append((drawn[start],))
            start += 1
            continue
        end = start + len(spec.draft.tokens) + 1
        if index in rows:
            kept.append(rejected(spec, rows[index], drawn[end - 1]))
        else:
            kept.append(compared(spec.draft.tokens, drawn[start:end]))
        start = end
    return StepResult(tuple(kept), _scores(logits, samples, kept))


def draft(logits: Floats, samples: Sequence[SampleSpec], vocabulary: int) -> list[tuple[int, Floats | None]]:
    """For each row of a draft model's logits a token that may come next, and what it was drawn from
    (`verify.proposed`). Its vocabulary may be padded to another size than `vocabulary`, the target's.
    """
    logits = logits[:, :vocabulary]
    if logits.shape[1] < vocabulary:
        logits = np.pad(logits, ((0, 0), (0, vocabulary - logits.shape[1])), constant_values=-np.inf)
    adjusted = logits
    for index, spec in enumerate(samples):
        if adjusts(spec):
            adjusted = logits.copy() if adjusted is logits else adjusted
            adjust(adjusted[index], spec)
    return proposed(adjusted, samples)


def _plain_greedy(spec: SampleSpec) -> bool:
    return spec.params.temperature < GREEDY_BELOW and not adjusts(spec)


def _draw(logits: Floats, samples: tuple[SampleSpec, ...], masks: Masks) -> tuple[list[int], dict[int, list[Row]]]:
    """What each row draws by itself; and the rows of the samples whose draft is to be rejected or not."""
    specs: list[SampleSpec] = []
    row_masks: list[bytes | None] = []
    owners: list[int | None] = []
    for index, (spec, mask) in enumerate(zip(samples, masks, strict=True)):
        count = 1 + (0 if spec.draft is None else len(spec.draft.tokens))
        specs += [at_row(spec, place) for place in range(count)] if count > 1 else [spec]
        row_masks += [None] * count if mask is None else mask
        weighed = spec.draft is not None and spec.draft.weights is not None
        owners += [index if weighed and by_rejection(spec.params, masked=mask is not None) else None] * count
    tokens: list[int] = []
    rows: dict[int, list[Row]] = {}
    step = max(1, CHUNK // logits.shape[1])
    for start, end in pairwise([*range(0, len(logits), step), len(logits)]):
        part = logits[start:end]
        changed = [at for at in range(start, end) if row_masks[at] is not None or adjusts(specs[at])]
        if changed:
            part = part.copy()
            with np.errstate(over="ignore", invalid="ignore"):  # of logits that are nonsense already
                for at in changed:
                    adjust(part[at - start], specs[at], row_masks[at])
        tokens += _draw_rows(part, specs[start:end], owners[start:end], rows)
    return tokens, rows


def _draw_rows(
    part: Floats, specs: Sequence[SampleSpec], owners: Sequence[int | None], rows: dict[int, list[Row]]
) -> list[int]:
    random = [index for index, spec in enumerate(specs) if spec.params.temperature >= GREEDY_BELOW]
    if not random:
        out: list[int] = part.argmax(axis=1).tolist()
        return out
    chosen = [specs[index] for index in random]
    numbers = [uniform(one.params.seed, one.choice, one.position, DRAW) for one in chosen]
    drawn, found = _at(part if len(random) == len(specs) else part[random], [one.params for one in chosen], numbers)
    for place, index in enumerate(random):
        owner = owners[index]
        if owner is not None:
            rows.setdefault(owner, []).append(found(place))
    if len(random) == len(specs):
        return drawn
    tokens = part.argmax(axis=1)
    tokens[random] = drawn
    return [int(token) for token in tokens]


def _at(
    logits: Floats, params: Sequence[SamplingParams], numbers: Sequence[float]
) -> tuple[list[int], Callable[[int], Row]]:
    """The token that each row's number points at, and what it was drawn from."""
    if logits.shape[0] <= FEW and logits.shape[1] <= SHORT:
        each = [filtered(row, one) for row, one in zip(logits, params, strict=True)]
        return [pick(row, number) for row, number in zip(each, numbers, strict=True)], each.__getitem__
    spread = Spread(logits, params)
    tokens: list[int] = spread.draw(np.array(numbers)).tolist()
    return tokens, spread.row


def _scores(
    logits: Floats, samples: tuple[SampleSpec, ...], kept: Sequence[tuple[int, ...]]
) -> tuple[tuple[Score, ...] | None, ...]:
    out: list[tuple[Score, ...] | None] = [None] * len(samples)
    if all(spec.params.logprobs is None for spec in samples):
        return tuple(out)
    wanted: list[tuple[int, int, int]] = []
    start = 0
    for spec, tokens in zip(samples, kept, strict=True):
        top = spec.params.logprobs
        if top is not None:
            wanted += [(start + place, token, top) for place, token in enumerate(tokens)]
        start += 1 if spec.draft is None else 1 + len(spec.draft.tokens)
    step = max(1, CHUNK // logits.shape[1])
    found: list[Score] = []
    for first in range(0, len(wanted), step):
        rows, drawn, tops = zip(*wanted[first : first + step], strict=True)
        found += scores(logits[list(rows)], drawn, tops)
    each = iter(found)
    for index, (spec, tokens) in enumerate(zip(samples, kept, strict=True)):
        if spec.params.logprobs is not None:
            out[index] = tuple(islice(each, len(tokens)))
    return tuple(out)

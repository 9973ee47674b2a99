"""Keeping a draft as far as it is right, so that the text is distributed as without it (arXiv 2211.17192, 2302.01318).

There are two ways, both exact.

*By comparison.* Each row's token is drawn as it would be without a draft, with its own random number, and the draft is
kept as far as it says the same. The text is literally the one without speculation: what the draft says has no influence
on it, only on how soon it comes. For a draft that was looked up, not drawn, this is rejection sampling: the token x
is kept with probability p(x), and what replaces it is drawn from p without x. It is also the way
- where the caller chose the seed, so that the text does not depend on how busy the engine was;
- under a grammar, which cuts drafts where they break it: that cut depends on the drawn token and would skew the other
  way.

*By rejection*, for a draft drawn from q: its token x is kept with probability min(1, p(x)/q(x)), else replaced by one
drawn from (p - q)+, normalised. It keeps more than comparison, as much as any way can. p and q are what is left after
all filters.
"""

from collections.abc import Sequence

import numpy as np

from headgate.engine.plan import GREEDY_BELOW, SampleSpec, SamplingParams
from headgate.engine.sampling.draws import ACCEPT, DRAW, RECOVER, Floats, Row, filtered, pick, uniform


def by_rejection(params: SamplingParams, *, masked: bool) -> bool:
    """Whether a draft that comes with weights is verified by rejection."""
    return params.temperature >= GREEDY_BELOW and not params.seeded and not masked


def compared(draft: Sequence[int], drawn: Sequence[int]) -> tuple[int, ...]:
    """The tokens to keep, given what each row drew by itself: one more than the draft has rows."""
    kept = 0
    while kept < len(draft) and draft[kept] == drawn[kept]:
        kept += 1
    return tuple(drawn[: kept + 1])


def rejected(spec: SampleSpec, rows: Sequence[Row], last: int) -> tuple[int, ...]:
    """The tokens to keep of a draft that was drawn; `last` is what was drawn to follow all of it."""
    draft, params = spec.draft, spec.params
    assert draft is not None
    for place, token in enumerate(draft.tokens):
        position = spec.position + place
        ids, weights = rows[place]
        target = weights / weights.sum(dtype=np.float64)
        guess = draft.weights[place]
        at = np.flatnonzero(ids == token) if ids is not None else np.array([token])
        likely = float(target[at[0]]) if len(at) else 0.0
        if uniform(params.seed, spec.choice, position, ACCEPT) * float(guess[token]) < likely:
            continue
        rest = np.maximum(target - (guess if ids is None else guess[ids]), 0.0)
        if not rest.any():  # p = q but for rounding
            rest = target
        recovered = pick((ids, rest), uniform(params.seed, spec.choice, position, RECOVER))
        return (*draft.tokens[:place], recovered)
    return (*draft.tokens, last)


def proposed(logits: Floats, samples: Sequence[SampleSpec]) -> list[tuple[int, Floats | None]]:
    """One token of a draft for each row of adjusted logits, and the distribution it was drawn from, [vocabulary].

    None for the latter where the draft will be compared. The random number is that which the model will draw with: it
    is then right whenever the two distributions agree there, and no other number depends on it.
    """
    out: list[tuple[int, Floats | None]] = []
    for row, spec in zip(logits, samples, strict=True):
        params = spec.params
        if params.temperature < GREEDY_BELOW:
            out.append((int(row.argmax()), None))
            continue
        ids, held = filtered(row, params)
        token = pick((ids, held), uniform(params.seed, spec.choice, spec.position, DRAW))
        weights = None
        if by_rejection(params, masked=False):
            weights = np.zeros(len(row), dtype=np.float32)
            weights[slice(None) if ids is None else ids] = held / held.sum()
        out.append((token, weights))
    return out

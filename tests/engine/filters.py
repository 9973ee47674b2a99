"""The filtered distribution in plain Python floats, written out slowly and separately; and a test against it."""

import math
from collections import Counter
from collections.abc import Sequence

from headgate.engine.plan import SampleSpec


def exact(logits: Sequence[float], spec: SampleSpec, mask: frozenset[int] | None = None) -> list[float]:
    """The probability of every token, in the documented order of the filters."""
    params = spec.params
    row = list(logits)
    for token in range(len(row)):
        if mask is not None:
            if token not in mask:
                row[token] = -math.inf
        elif spec.position < params.min_tokens and token in params.stop_ids:
            row[token] = -math.inf
        row[token] += params.logit_bias.get(token, 0.0)
    counts = dict(spec.output_counts)
    for token in {*counts, *spec.prompt_tokens}:
        if row[token] > 0:
            row[token] /= params.repetition_penalty
        else:
            row[token] *= params.repetition_penalty
    for token, count in counts.items():
        row[token] -= params.presence_penalty + params.frequency_penalty * count
    best = max(row)
    weights = [math.exp((value - best) / params.temperature) for value in row]
    kept = [token for token, weight in enumerate(weights) if weight > 0 and weight >= params.min_p]
    if 0 < params.top_k < len(kept):
        border = sorted((weights[token] for token in kept), reverse=True)[params.top_k - 1]
        kept = [token for token in kept if weights[token] >= border]
    if params.top_p < 1.0:
        needed = params.top_p * math.fsum(weights[token] for token in kept)
        held, nucleus = 0.0, []
        for token in sorted(kept, key=lambda one: -weights[one]):
            nucleus.append(token)
            held += weights[token]
            if held >= needed:
                break
        kept = nucleus
    total = math.fsum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(row))]


def g_statistic(counts: Counter[int], expected: Sequence[float]) -> tuple[float, int]:
    """G and its degrees of freedom. Outcomes expected less than five times are one; an impossible one is infinite G."""
    draws = sum(counts.values())
    if any(expected[token] == 0 for token in counts):
        return math.inf, 1
    rare = [token for token, share in enumerate(expected) if 0 < share * draws < 5]
    cells = [(counts[token], share) for token, share in enumerate(expected) if share * draws >= 5]
    if rare:
        cells.append((sum(counts[token] for token in rare), sum(expected[token] for token in rare)))
    statistic = 2 * math.fsum(n * math.log(n / (draws * share)) for n, share in cells if n)
    return statistic, max(1, len(cells) - 1)


def border(freedom: int, chance: float) -> float:
    """What chi-squared passes with that probability: Wilson and Hilferty's approximation (1931), good to a percent."""
    low, high = 0.0, 40.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2)) / 2 > chance else (low, middle)
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + low * math.sqrt(spread)) ** 3

"""The `x-ratelimit-*` headers, as OpenAI's clients read them."""

from headgate.core.limiter import Verdict
from headgate.core.reply import Header
from headgate.pipeline.plans import Terms

_NAMES = [
    (b"x-ratelimit-limit-" + kind, b"x-ratelimit-remaining-" + kind, b"x-ratelimit-reset-" + kind)
    for kind in (b"requests", b"tokens")
]


def duration(seconds: float) -> str:
    """A duration as OpenAI writes it: `12ms`, `1s`, `6m0s`, `1h0m0s`; rounded up, so that it is never too early."""
    milliseconds = -int(-seconds * 1000 // 1)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    whole = -(-milliseconds // 1000)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def limit_headers(terms: Terms, verdict: Verdict) -> list[Header]:
    """Limit, remaining and reset of requests and of tokens: of the limit that refused, else of the scarcest."""
    scarcest: list[int | None] = [None, None]
    parts = [2.0, 2.0]
    for place, (rate, state) in enumerate(zip(terms.plan.rates, verdict.rates, strict=False)):
        kind = int(rate.tokens)
        part = -1.0 if place == verdict.refused_rate else state.remaining / rate.amount
        if part < parts[kind]:
            parts[kind], scarcest[kind] = part, place
    out: list[Header] = []
    for (limit, remaining, reset), chosen in zip(_NAMES, scarcest, strict=True):
        if chosen is not None:
            state = verdict.rates[chosen]
            out.append((limit, b"%d" % terms.plan.rates[chosen].amount))
            out.append((remaining, b"%d" % max(0, int(state.remaining))))
            out.append((reset, duration(state.reset_s).encode()))
    return out

"""The `x-ratelimit-*` headers, as OpenAI's clients read them."""

from collections.abc import Sequence

from headgate.core.counters import Decision, Take
from headgate.core.reply import Header

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


def limit_headers(takes: Sequence[Take], decision: Decision) -> list[Header]:
    """Limit, remaining and reset for requests and for tokens, in that order of `takes`."""
    out: list[Header] = []
    for (limit, remaining, reset), take, state in zip(_NAMES, takes, decision.states, strict=True):
        out.append((limit, b"%d" % take.capacity))
        out.append((remaining, b"%d" % max(0, int(state.remaining))))
        out.append((reset, duration(state.reset_s).encode()))
    return out

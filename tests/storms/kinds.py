"""Which faults the storms draw from, as orders of `headgate chaos-upstream`.

Left out are those that are no failures but answers: a refusal of the model's, a prompt too long, no such model. They go
to the caller by design. And repeated events within an answer: nobody without the true answer could tell.
"""

from collections.abc import Sequence
from typing import Any

FAILING = (
    "500", "502", "503", "529", "500,body=html", "502,body=empty", "429,retry_after=short", "429,retry_after=long",
    "429,retry_after=odd", "503,retry_after=zero", "401", "403", "redirect", "refuse=0.3", "tls=plain", "tls=garbage",
    "reset", "reset=4", "reset_reuse", "no_head", "no_head=1", "slow_head=9", "slow_first=9", "only_comments",
    "stall=0", "stall=5", "cut=0", "cut=1", "cut=7", "cut=9,end=1", "cut_event=6", "cut_utf8=2", "no_done",
    "error_event=0", "error_event=5", "bad_json=0", "bad_json=4", "wrong_type", "html", "null=3", "empty_choices",
    "huge_headers", "huge_headers=count", "gzip_bomb=64", "huge_event=16",
)  # fmt: skip
RESTING = frozenset({"401", "403", "429,retry_after=long"})
"""After one of these a replica is left alone for so long that nothing else is seen of it."""
ODD = ("crlf", "after_done", "two_done", "usage_missing", "usage_absurd", "slow_drip=1", "framing=close")
"""Rare, and no failures: the answer is whole."""


def rules(kinds: Sequence[str], share: float, seed: int) -> list[dict[str, Any]]:
    """So that each of the kinds strikes equally often, and one of them `share` of all requests. The first rule that
    strikes decides, so each later one sees fewer requests and must strike more of them.
    """
    each = share / len(kinds)
    return [
        {"fault": kind, "share": each / (1 - place * each), "seed": seed * 1_000 + place}
        for place, kind in enumerate(kinds)
    ]

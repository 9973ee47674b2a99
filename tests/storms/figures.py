"""What a run showed, as one line of JSON with its commit and date."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.storms.load import Heard

Figures = dict[str, Any]


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` of all do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def results(heard: Sequence[Heard]) -> Figures:
    """How the calls ended: counts, the share that was right, and what the others were told."""
    found = Counter(call.result for call in heard)
    return {
        "calls": len(heard),
        **{name: found[name] for name in ("right", "wrong", "error", "unshaped")},
        "right_pct": round(100 * found["right"] / max(1, len(heard)), 3),
        "codes": dict(Counter(call.code for call in heard if call.result == "error")),
        "whys": [f"{call.marker}: {call.why}"[:300] for call in heard if call.result in {"wrong", "unshaped"}][:5],
    }


def first_ms(heard: Sequence[Heard]) -> Figures:
    """Milliseconds to the first word of streams, and of whole answers to their end."""
    waits = [call.wait_s for call in heard if call.stream and call.wait_s is not None]
    whole = [call.wait_s for call in heard if not call.stream and call.wait_s is not None]
    return {
        "ttft_p50_ms": ms(quantile(waits, 0.5)),
        "ttft_p99_ms": ms(quantile(waits, 0.99)),
        "whole_p50_ms": ms(quantile(whole, 0.5)),
        "whole_p99_ms": ms(quantile(whole, 0.99)),
    }


def ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def line(scenario: str, figures: Figures) -> str:
    root = Path(__file__).parents[2]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    date = datetime.now(UTC).date().isoformat()
    about = {
        "scenario": scenario,
        "commit": commit or "unknown",
        "date": date,
        "load_average": round(os.getloadavg()[0], 1),
    }
    return json.dumps({**about, **figures})

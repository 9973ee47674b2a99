"""Does one noisy tenant starve the others, and is the capacity of a backend found and held?

    python -m bench.fairness [--quick] [--seeds N] [--no-http] [--json FILE] [--plot FILE]

First in virtual time (the real gate, a modelled pool, many seeds; the worst seed counts), then over HTTP (`headgate
serve`, a model server of limited capacity, real projects and keys). Prints a table; says where a promise is not kept.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import fair_http, fair_sim, report
from bench.fair_plot import plot

Row = dict[str, Any]
RATIO_MOST, JAIN_LEAST, GOODPUT_LEAST = 1.5, 0.95, 0.9
TRACK = (0.8, 1.5)


def lines(rows: Sequence[Row]) -> list[tuple[str, str, str, bool]]:
    """What was asked, what came out, without fair queues or gate, and whether the promise is kept."""
    told: list[tuple[str, str, str, bool]] = []

    def every(scenario: str, field: str) -> list[float]:
        return [float(row[field]) for row in rows if row["scenario"] == scenario and field in row]

    for scenario, title in (("noisy, pool busy", "busy pool"), ("http, noisy", "busy pool, over HTTP")):
        if ratios := every(scenario, "ratio"):
            without = every(scenario, "unfair_p99_s")
            waits = f"{max(every(scenario, 'alone_p99_s')):.2f} s -> {max(every(scenario, 'flood_p99_s')):.2f} s"
            told.append((
                f"{title}: others' p99 wait with a tenant at 50x its share, against without it: <= {RATIO_MOST}",
                f"{max(ratios):.2f} ({waits})", f"{max(without):.1f} s" if without else "-", max(ratios) <= RATIO_MOST,
            ))  # fmt: skip
    if every("noisy, pool calm", "flood_p99_s"):
        calm = max(row["flood_p99_s"] / row["slice_p99_s"] for row in rows if row["scenario"] == "noisy, pool calm")
        told.append((
            "calm others (80 % of their share): their p99 wait, against a slice of their own: <= 1",
            f"{calm:.2f} ({max(every('noisy, pool calm', 'flood_p99_s')):.2f} s; idle pool "
            f"{max(every('noisy, pool calm', 'alone_p99_s')):.2f} s)",
            f"{max(every('noisy, pool calm', 'unfair_p99_s')):.1f} s", calm <= 1,
        ))  # fmt: skip
    for scenario, title in (("shares", "weights 1:2:4:8"), ("http, shares", "weights 1:2:4:8, over HTTP")):
        if values := every(scenario, "jain"):
            without = every(scenario, "unfair_jain")
            told.append((
                f"{title}: Jain index of what each is served by its weight: >= {JAIN_LEAST}",
                f"{min(values):.4f}", f"{max(without):.2f}" if without else "-", min(values) >= JAIN_LEAST,
            ))  # fmt: skip
    for scenario, title in (("goodput", "found limit"), ("http, goodput", "found limit, over HTTP")):
        if values := every(scenario, "at_2x"):
            without = every("goodput, no gate", "at_2x") if scenario == "goodput" else []
            told.append((
                f"{title}: goodput at twice the capacity, of the best: >= {GOODPUT_LEAST}",
                f"{min(values):.2f}", f"{max(without):.2f}" if without else "-", min(values) >= GOODPUT_LEAST,
            ))  # fmt: skip
    tracked = [ratio for row in rows if row["scenario"] == "tracking" for ratio in row["limit_by_true"]]
    if tracked:
        told.append((
            f"found limit by true capacity, which halves and comes back: {TRACK[0]} to {TRACK[1]}",
            f"{min(tracked):.2f} to {max(tracked):.2f}", "-", TRACK[0] <= min(tracked) and max(tracked) <= TRACK[1],
        ))  # fmt: skip
    return told


def table(told: Sequence[tuple[str, str, str, bool]]) -> str:
    rows = ["| measure | found | without | kept |", "|---|---|---|---|"]
    rows += [f"| {title} | {found} | {without} | {'yes' if kept else 'NO'} |" for title, found, without, kept in told]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fairness", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, short")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--no-http", action="store_true", help="virtual time only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="such as docs/images/fairness.svg")
    options = parser.parse_args(arguments)
    rows = fair_sim.simulate(2 if options.quick else options.seeds, 60.0 if options.quick else 180.0)
    if not options.no_http:
        with tempfile.TemporaryDirectory() as folder:
            rows += fair_http.measure(Path(folder) / "run", 8.0 if options.quick else 30.0)
    told = lines(rows)
    print(table(told))
    if options.plot:
        plot(rows, options.plot)
    if options.json:
        kept = [{key: value for key, value in row.items() if key != "points"} for row in rows]
        options.json.write_text(json.dumps({**report.facts({}), "summary": told, "rows": kept}, indent=1) + "\n")
    return 0 if all(kept for *_, kept in told) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The picture of the fairness bench: three questions, three small plots."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "headgate"

from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)

OURS, OTHER, TRUE = "#1f6f8b", "#c25b3f", "#888888"
Row = dict[str, Any]


def plot(rows: Sequence[Row], file: Path) -> None:
    """Writes an SVG."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    noisy = [row for row in rows if row["scenario"] == "noisy, pool busy"]
    names = ["alone", "beside\nthe flood", "first come\nfirst served"]
    values = [fmean(row[field] for row in noisy) for field in ("alone_p99_s", "flood_p99_s", "unfair_p99_s")]
    left.bar(names, values, color=[TRUE, OURS, OTHER])
    left.set_title("p99 wait of nine tenants (s)", fontsize=10)
    for place, value in enumerate(values):
        left.text(place, value, f"{value:.1f}", ha="center", va="bottom", fontsize=9)
    for scenario, label, colour in (("goodput", "found limit", OURS), ("goodput, no gate", "no gate", OTHER)):
        found = [row["by_load"] for row in rows if row["scenario"] == scenario]
        loads = list(found[0])
        served = [fmean(each[load] for each in found) for load in loads]
        middle.plot([float(load) for load in loads], served, marker="o", color=colour, label=label)
    middle.set_title("served in time, by load (1 = capacity)", fontsize=10)
    middle.set_ylim(0, 1.1)
    middle.legend(fontsize=9, frameon=False)
    points = next(row["points"] for row in rows if row["scenario"] == "tracking")
    times = [at for at, _, _ in points]
    right.step(times, [slots for _, slots, _ in points], color=TRUE, label="true capacity")
    right.plot(times, [limit for _, _, limit in points], color=OURS, linewidth=1, label="limit found")
    right.set_ylim(0, 2.2 * max(slots for _, slots, _ in points))
    right.set_title("calls at once, over time (s)", fontsize=10)
    right.legend(fontsize=9, frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)

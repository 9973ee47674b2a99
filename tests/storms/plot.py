"""The picture of a stopped replica: the wait for the first word and each replica's share of the calls, over time."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "headgate"

from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first)

from tests.storms.figures import Figures, quantile  # noqa: E402
from tests.storms.load import Heard  # noqa: E402

COLOURS = ("#1f6f8b", "#5fa8a0", "#9bbf85", "#c25b3f")
GREY = "#888888"


def plot(heard: Sequence[Heard], figures: Figures, file: Path) -> None:
    """Writes an SVG."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
    seconds = range(int(max(call.due_s for call in heard)) + 1)
    by_second: dict[int, list[Heard]] = {second: [] for second in seconds}
    for call in heard:
        by_second[int(call.due_s)].append(call)
    for share, label, colour in ((0.5, "median", COLOURS[1]), (0.99, "p99", COLOURS[0])):
        waits = [
            1000 * quantile([call.wait_s for call in calls if call.stream and call.wait_s is not None], share)
            for calls in by_second.values()
        ]
        above.plot(seconds, waits, color=colour, label=label)
    above.set_yscale("log")
    above.set_title("ms to the first word, calls due in each second", fontsize=10)
    names = sorted({call.replica for call in heard})
    counts = [Counter(call.replica for call in calls) for calls in by_second.values()]
    shares = [[100 * count[name] / max(1, count.total()) for count in counts] for name in names]
    below.stackplot(seconds, shares, labels=names, colors=COLOURS)
    below.set_title("% of the calls due in each second, by the replica that answered", fontsize=10)
    below.set_xlabel("seconds", fontsize=9)
    for axes in (above, below):
        axes.legend(fontsize=8, loc="lower right" if axes is below else "upper right", ncols=4)
        for at, text in ((figures["stopped_at_s"], "SIGSTOP"), (figures["thawed_at_s"], "SIGCONT")):
            axes.axvline(at, color=GREY, linestyle="--", linewidth=1)
            axes.text(at, axes.get_ylim()[1], f" {text}", va="top", fontsize=8, color=GREY)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)

"""From rows to medians, a table, and the facts about the machine that numbers mean nothing without."""

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec", "prometheus-client")

COLUMNS: tuple[tuple[str, str, str, int], ...] = (
    ("CPU us per JSON request", "json", "cpu_us_request", 0),
    ("JSON requests/s", "json", "answers_per_s", 0),
    ("CPU us per 100 KB request", "json100k", "cpu_us_request", 0),
    ("CPU us per chunk, 100 in a row", "sse100", "cpu_us_chunk", 1),
    ("CPU us per chunk, 20 streams", "hold20", "cpu_us_chunk", 1),
    ("CPU us per chunk, 100 streams", "hold100", "cpu_us_chunk", 1),
    ("CPU us per chunk, 200 streams", "hold200", "cpu_us_chunk", 1),
    ("chunk transit p50 ms, 200 streams", "hold200", "transit_ms_p50", 2),
    ("chunk transit p99 ms, 200 streams", "hold200", "transit_ms_p99", 2),
    ("latency p50 ms at 50/s", "open50", "latency_ms_p50", 2),
    ("latency p99 ms at 50/s", "open50", "latency_ms_p99", 2),
    ("latency p50 ms at 200/s", "open200", "latency_ms_p50", 2),
    ("latency p99 ms at 200/s", "open200", "latency_ms_p99", 2),
    ("first token p50 ms, reused connection", "ttft", "ttft_ms_p50", 2),
    ("first token p99 ms, reused connection", "ttft", "ttft_ms_p99", 2),
    ("memory MB idle", "idle", "memory_mb", 0),
    ("memory MB with 200 streams", "hold200", "memory_mb", 0),
)
"""Title, test, field, decimals."""


def values(rows: Sequence[Row], subject: str, test: str, field: str) -> dict[int, float]:
    """By round."""
    return {
        row["round"]: row[field]
        for row in rows
        if row["subject"] == subject and row["test"] == test and field in row and not row.get("bad")
    }


def summary(rows: Sequence[Row], subjects: Sequence[str]) -> list[Row]:
    """One line per measure: each subject's median, and Headgate against the subject measured beside it.

    For times that is what Headgate adds to the direct way, for everything else its ratio to nginx; both are taken
    within each round, where the machine was in one mood, and the median of that is given.
    """
    lines = []
    for title, test, field, digits in COLUMNS:
        by_round = {subject: values(rows, subject, test, field) for subject in subjects}
        if not any(by_round.values()):
            continue
        line: Row = {"measure": title, "digits": digits}
        line |= {subject: statistics.median(found.values()) if found else None for subject, found in by_round.items()}
        ours = by_round.get("headgate", {})
        timed = "_ms_" in field
        beside = by_round.get("direct" if timed else "nginx", {})
        both = ours.keys() & beside.keys()
        if both and timed:
            line["added"] = statistics.median(ours[number] - beside[number] for number in both)
        elif both:
            line["ratio"] = statistics.median(ours[number] / beside[number] for number in both)
        lines.append(line)
    return lines


def table(rows: Sequence[Row], subjects: Sequence[str]) -> str:
    """Markdown."""
    head = ["measure", *subjects, "added to direct", "ratio to nginx"]
    lines = [head, ["---"] * len(head)]
    for line in summary(rows, subjects):
        cells = [_number(line[subject], line["digits"]) for subject in subjects]
        lines.append([line["measure"], *cells, _number(line.get("added"), 2), _number(line.get("ratio"), 2)])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def facts(versions: dict[str, str]) -> dict[str, Any]:
    """Commit, date, machine and versions."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--", "src", "bench").splitlines()),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "kernel": platform.release(),
            "load_average": os.getloadavg(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
            **versions,
        },
    }


def _git(*arguments: str) -> str:
    try:
        told = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

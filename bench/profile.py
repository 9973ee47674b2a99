"""Where the gateway's time goes, by room and by function. Shares only: cProfile slows Python code more than C code."""

import json
import pstats
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from bench.process import LOAD_CORE, start, stop
from bench.subjects import KEY, Subject, headgate

LOADS = {
    "JSON requests": ("closed", "--connections", "32"),
    "streams, one chunk per 20 ms": ("hold", "--connections", "100", "--chunks", "1000000", "--gap-ms", "20"),
}
SHOWN = 20


def report(folder: Path, upstream: Subject, seconds: float) -> str:
    """One profile for each kind of load, each of a process of its own."""
    parts = []
    for place, (title, arguments) in enumerate(LOADS.items()):
        file = folder / f"profile-{place}"
        subject = headgate(folder / f"profiled-{place}", upstream.port, profile=file)
        try:
            _load(subject, arguments, seconds, folder / f"load-{place}")
        finally:
            subject.close()
        parts.append(f"## {title}\n\n{_tables(file)}")
    return "\n\n".join(parts)


def _load(subject: Subject, arguments: tuple[str, ...], seconds: float, out: Path) -> None:
    command = [sys.executable, "-m", "bench.load", *arguments, "--port", str(subject.port), "--key", KEY]
    load = start([*command, "--seconds", str(seconds)], LOAD_CORE, out)
    try:
        load.wait(seconds + 30)
    except subprocess.TimeoutExpired:
        pass
    finally:
        stop(load)
    json.loads(out.read_text())  # it ended well


def _tables(file: Path) -> str:
    own: dict[str, float] = defaultdict(float)
    functions = []
    stats = vars(pstats.Stats(str(file)))["stats"]
    for (path, _, name), (_, calls, seconds, _, _) in stats.items():
        room = _room(path, name)
        if room != "start":
            own[room] += seconds
            functions.append((seconds, calls, f"{room}: {name}"))
    total = sum(own.values())
    lines = [f"{share / total:6.1%}  {room}" for room, share in sorted(own.items(), key=lambda item: -item[1])[:12]]
    functions.sort(reverse=True)
    lines += ["", *(f"{each / total:6.1%}  {calls:9,} calls  {name}" for each, calls, name in functions[:SHOWN])]
    return "\n".join(lines)


def _room(path: str, name: str) -> str:
    """The room of ours, or the package; what only runs at the start is left out."""
    if path == "~":
        if "uvloop" in name:
            return "event loop and kernel"
        return "start" if "import" in name or "compile" in name or "marshal" in name else "C functions"
    for mark in ("headgate/", "site-packages/"):
        if mark in path:
            return (
                mark.strip("/").replace("site-packages", "")
                + "/" * (mark == "headgate/")
                + path.rpartition(mark)[2].split("/")[0]
            )
    return "start" if path.startswith("<frozen importlib") else "standard library"

"""What the gateway itself costs: CPU per request and per relayed chunk, added latency, memory.

    python -m bench.overhead                      # some five minutes; make bench
    python -m bench.overhead --quick              # twenty seconds: one short round
    python -m bench.overhead --json FILE          # every row, for comparing later
    python -m bench.overhead --governed --redis redis://127.0.0.1:6379/0
    python -m bench.overhead --profile            # where the time goes, by room and function

The gateway runs alone on one core; the mock upstream and the load share another. Subjects take turns within each
round, and medians are shown. docs/performance.md explains each figure.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import profile, report
from bench.process import LOAD_CORE, memory_mb, realtime, start, stop
from bench.report import Row
from bench.subjects import Subject, govern, headgate, nginx, upstream

PATIENCE_SECONDS = 30.0
"""What a load process may need beyond its window."""
KEPT_UP = 0.97
"""Below this part of the offered chunks a server was not keeping up: it merges chunks, and each looks cheaper."""
ENDLESS = 1_000_000
"""Chunks of a stream that outlasts any window."""


@dataclass(frozen=True)
class Test:
    """One kind of load: what `bench.load` is told."""

    name: str
    arguments: tuple[str, ...]


def tests() -> list[Test]:
    return [
        Test("json", ("closed", "--connections", "32")),
        Test("json100k", ("closed", "--connections", "8", "--body-bytes", "100000")),
        Test("sse100", ("closed", "--connections", "16", "--chunks", "100")),
        *(
            Test(
                f"hold{streams}",
                ("hold", "--connections", str(streams), "--chunks", str(ENDLESS), "--gap-ms", "20"),
            )
            for streams in (20, 100, 200)
        ),
        Test("open50", ("open", "--rate", "50")),
        Test("open200", ("open", "--rate", "200")),
        Test("ttft", ("closed", "--connections", "1", "--chunks", "3", "--gap-ms", "20")),
    ]


QUICK = ("json", "hold100", "open200")


def measure(test: Test, subject: Subject, mock: Subject, seconds: float) -> Row:
    """One window of one test. Raises `RuntimeError` where the load process fails."""
    pids = subject.pids
    command = [sys.executable, "-m", "bench.load", *test.arguments, "--port", str(subject.port), "--key", subject.key]
    command += ["--seconds", str(seconds), "--pids", ",".join(map(str, pids))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "load"
        load = start(command, LOAD_CORE, out)
        try:
            with realtime([*pids, mock.process.pid, load.pid]) as ahead:
                load.wait(seconds + PATIENCE_SECONDS)
        finally:
            stop(load)
        text = out.read_text()
    try:
        return {"test": test.name, "subject": subject.name, "realtime": ahead, **json.loads(text)}
    except json.JSONDecodeError as error:
        raise RuntimeError(f"the load of {test.name} on {subject.name} failed:\n{text}") from error


def rounds(subjects: Sequence[Subject], mock: Subject, chosen: Sequence[Test], count: int, seconds: float) -> list[Row]:
    """Every test on every subject, taking turns; the first subject of a round changes from round to round."""
    rows: list[Row] = [
        {"test": "idle", "subject": subject.name, "round": 0, "memory_mb": round(memory_mb(subject.pids), 1)}
        for subject in subjects
    ]
    for number in range(count):
        shift = number % len(subjects)
        for test in chosen:
            for subject in (*subjects[shift:], *subjects[:shift]):
                row = {"round": number, **measure(test, subject, mock, seconds)}
                rows.append(row)
                if row["bad"]:
                    print(f"{test.name} on {subject.name}: {row['bad']} wrong answers", file=sys.stderr)
                if row["chunks_per_s"] < KEPT_UP * row.get("offered_per_s", 0):
                    print(f"{test.name} on {subject.name}: only {row['chunks_per_s']} chunks/s", file=sys.stderr)
    return rows


def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        mock = upstream(folder)
        stack.callback(mock.close)
        if options.profile:
            print(profile.report(folder, mock, options.seconds))
            return
        subjects = [mock, headgate(folder / "headgate", mock.port)]
        stack.callback(subjects[1].close)
        if options.governed:
            for name, counters in (("governed", "memory"), *((("on redis", options.redis),) if options.redis else ())):
                subject = headgate(folder / name.replace(" ", "-"), mock.port, name=name, counters=counters)
                stack.callback(subject.close)
                govern(subject)
                subjects.append(subject)
        yardstick = nginx(folder / "nginx", mock.port)
        if yardstick is None:
            print("nginx is not installed: no yardstick (on Debian: apt-get install nginx-light)", file=sys.stderr)
        else:
            subjects.append(yardstick)
            stack.callback(yardstick.close)
        chosen = [test for test in tests() if not options.tests or test.name in options.tests]
        facts = report.facts(
            {subject.name: subject.version for subject in subjects}
        )  # the commit that runs, not a later
        rows = rounds(subjects, mock, chosen, options.rounds, options.seconds)
    names = [subject.name for subject in subjects]
    print(report.table(rows, names))
    if options.json:
        result = {
            **facts,
            "command": sys.argv[1:],
            "summary": report.summary(rows, names),
            "rows": rows,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.overhead", description="What the gateway itself costs.")
    parser.add_argument("--quick", action="store_true", help="one round of half-second windows, three tests")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one window")
    parser.add_argument("--tests", nargs="*", choices=[test.name for test in tests()])
    parser.add_argument(
        "--governed", action="store_true", help="also with six limits and four budgets on all levels of the key"
    )
    parser.add_argument("--redis", metavar="URL", help="with --governed: the same again, sharing limits in this Redis")
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--profile", action="store_true", help="run Headgate under cProfile and say where time goes")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.tests = 1, 0.5, options.tests or list(QUICK)
    return options


def main() -> None:
    try:  # other work on the machine should not stand between the processes measured
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        pass
    run(parse())


if __name__ == "__main__":
    main()

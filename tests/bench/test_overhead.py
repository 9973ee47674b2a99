"""The bench measures what it says: real processes, whole answers, rows with sane figures."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench import report
from bench.overhead import parse, rounds
from bench.overhead import tests as all_tests
from bench.process import cpu_seconds, stop, tree
from bench.subjects import headgate, upstream

ROOT = Path(__file__).parents[2]


def test_every_kind_of_load_gives_whole_answers_and_figures(tmp_path: Path) -> None:
    mock = upstream(tmp_path)
    try:
        subject = headgate(tmp_path / "headgate", mock.port)
        try:
            chosen = [
                test for test in all_tests() if test.name in {"json", "json100k", "sse100", "hold20", "open50", "ttft"}
            ]
            rows = rounds([mock, subject], mock, chosen, 1, 0.2)
        finally:
            subject.close()
    finally:
        mock.close()
    assert {(row["test"], row["subject"]) for row in rows} == {
        (test, subject) for test in ["idle", *(test.name for test in chosen)] for subject in ("direct", "headgate")
    }
    for row in rows:
        assert not row.get("bad"), row
        assert row["memory_mb"] > 1
        if row["test"] != "idle":
            assert row["cpu_us_chunk" if row["test"] == "hold20" else "cpu_us_request"] > 0
        for field, value in row.items():
            assert not isinstance(value, float) or (math.isfinite(value) and value >= 0), (field, row)
        if row["test"] == "sse100":
            assert row["chunks"] > row["answers"] > 0
    shown = report.table(rows, ["direct", "headgate"])
    assert "CPU us per JSON request" in shown
    assert "CPU us per chunk, 20 streams" in shown


def test_the_command_prints_a_table_and_writes_its_rows_with_commit_machine_and_versions(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, "-m", "bench.overhead", "--quick", "--tests", "json", "--json", str(file)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.startswith("| measure | direct | headgate |")
    result = json.loads(file.read_text())
    assert result["commit"]
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["headgate"]
    assert {"direct", "headgate"} <= {row["subject"] for row in result["rows"]}
    assert result["summary"][0]["measure"] == "CPU us per JSON request"


def test_a_wrong_answer_is_counted_and_its_row_left_out_of_the_medians() -> None:
    good = {"test": "json", "subject": "headgate", "round": 0, "bad": 0, "cpu_us_request": 50.0}
    wrong = {**good, "round": 1, "bad": 3, "cpu_us_request": 1.0}
    assert report.values([good, wrong], "headgate", "json", "cpu_us_request") == {0: 50.0}


def test_ratios_and_additions_are_taken_within_a_round() -> None:
    rows = [
        {"test": "json", "subject": subject, "round": number, "bad": 0, "cpu_us_request": cost}
        for number, pair in enumerate([(40.0, 10.0), (90.0, 30.0), (80.0, 16.0)])
        for subject, cost in zip(("headgate", "nginx"), pair, strict=True)
    ]
    assert report.summary(rows, ["headgate", "nginx"])[0]["ratio"] == 4.0


def test_cpu_time_is_read_over_the_whole_process_tree() -> None:
    work = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    process = subprocess.Popen([sys.executable, "-c", work])
    pids = [process.pid]
    try:
        while len(pids) < 2:
            pids = tree(process.pid)
        while cpu_seconds(pids[1:]) < 0.1:
            pass
        assert cpu_seconds(pids) > cpu_seconds(pids[1:2]) * 0.9
    finally:
        for pid in reversed(pids[1:]):
            os.kill(pid, signal.SIGTERM)
        stop(process)


def test_quick_is_one_short_round_of_the_main_tests() -> None:
    options = parse(["--quick"])
    assert (options.rounds, options.seconds) == (1, 0.5)
    assert options.tests == ["json", "hold100", "open200"]


@pytest.mark.parametrize("words", [["--tests", "nothing"], ["--rounds", "many"]])
def test_words_it_does_not_know_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert "usage" in capsys.readouterr().err

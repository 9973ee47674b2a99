"""A slice of each long proof of this folder, and the proofs."""

import json
import random
from pathlib import Path

import pytest

from tests.soak import callers, run, stops
from tests.soak.line import Heard
from tests.soak.readings import slope
from tests.soak.traffic import Callers, asked


def test_calls_of_every_kind_get_their_own_answers_and_no_other(tmp_path: Path) -> None:
    wrong_caller(tmp_path, 600)


@pytest.mark.prove
@pytest.mark.timeout(7_200)
def test_a_million_marked_calls_have_no_foreign_answer(tmp_path: Path) -> None:
    wrong_caller(tmp_path, 1_000_000)


def wrong_caller(folder: Path, count: int) -> None:
    line, made = callers.run(folder, count, width=48, seconds=6_000, seed=1)
    print(json.dumps(line))
    assert made.told.amiss == {}, made.told.findings[:3]
    assert line["bugs"] == 0
    assert line["calls"] == count
    assert line["whole"] > 0.7 * count
    assert min(line[name] for name in ("left", "replayed", "resumed", "joined", "attempts_retry")) > 0


def test_everything_a_short_soak_took_is_given_back_and_the_ledger_is_exact(tmp_path: Path) -> None:
    soak(tmp_path, run.Plan(seconds=6.0, rate=60.0, warm_s=2.0, keep_s=2.0))


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_twenty_minutes_of_traffic_leave_nothing_behind(tmp_path: Path) -> None:
    soak(tmp_path, run.Plan(seconds=1_200.0, rate=100.0, warm_s=300.0))


def soak(folder: Path, plan: run.Plan) -> None:
    line, callers = run.soak(folder, plan)
    print(json.dumps(line))
    assert run.amiss(line, callers) == []


def test_streams_are_finished_and_new_calls_refused_when_a_server_is_told_to_stop(tmp_path: Path) -> None:
    stop(tmp_path, rounds=1, streams=60, grace_s=4.0)


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_a_hundred_stops_drop_none_of_twenty_thousand_streams(tmp_path: Path) -> None:
    stop(tmp_path, rounds=100, streams=200, grace_s=stops.GRACE_S)


def stop(folder: Path, rounds: int, streams: int, grace_s: float) -> None:
    line = stops.stop_again_and_again(folder, rounds, streams, 1, grace_s)
    print(json.dumps(line))
    assert line["dropped"] == 0, line["examples"]
    assert line["finished"] == rounds * streams
    assert line["ended_at_grace"] == stops.BEYOND * max(1, rounds // 10)
    assert line["bad_exits"] == 0


def test_a_foreign_a_wrong_and_a_cut_answer_would_be_seen() -> None:
    mine, head = asked("whole", 1, random.Random(1)), b"HTTP/1.1 200 OK\r\n"
    judge = Callers(0, ["key"], 1, 0.0)
    judge.judge(mine, Heard(head, b'{"content":"marker-w2z and so on"}'))
    judge.judge(mine, Heard(head, b'{"content":"marker-w1z and so on"}'))
    judge.judge(mine, None)
    assert judge.told.amiss == {"foreign": 1, "wrong": 1, "cut": 1}
    judge.judge(mine, Heard(head, b'{"content":' + json.dumps(mine.expected).encode() + b"}"))
    assert judge.told.count["whole"] == 1


def test_a_rise_of_memory_would_be_seen() -> None:
    assert round(slope([(0, 90.0), (10_000, 91.0), (20_000, 92.0)]) * 10_000, 6) == 1.0

"""Streams read slowly, or not at all, beside fast ones: all that end are right, and what is held is bounded."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.live import Live
from tests.load.slow_readers import stopped, thousand


def test_fast_and_slow_readers_at_once_get_their_streams_whole(gate: Live) -> None:
    line = thousand(gate, 100, slow_tokens=40)
    print(json.dumps(line))
    assert line["rss_rise_mb"] < 60


@pytest.mark.prove
def test_a_thousand_streams_of_which_two_hundred_are_read_at_two_kilobytes_a_second(gate: Live) -> None:
    line = thousand(gate, 1_000, slow_tokens=300)
    print(json.dumps(line))
    assert line["rss_rise_mb"] <= 400


def test_readers_that_stop_stall_their_upstreams_and_cost_bounded_memory(tmp_path: Path) -> None:
    readers_stop(tmp_path, 20)


@pytest.mark.prove
def test_two_hundred_readers_that_stop(tmp_path: Path) -> None:
    readers_stop(tmp_path, 200)


def readers_stop(folder: Path, count: int) -> None:
    line = asyncio.run(stopped(folder, count))
    print(json.dumps(line))
    assert line["stalled"] == count
    assert line["held_kib"] < 2_048
    assert line["taken_kib"] < 3_072  # by the upstream's side of the kernel, mostly: ours would take as much again

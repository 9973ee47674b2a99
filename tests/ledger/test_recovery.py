"""What a process that died left behind: every opening gets one receipt, and never two."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from headgate.core.usage import Receipt
from headgate.ledger.journal import Journal, decode
from headgate.ledger.recovery import recover
from tests.ledger.test_journal import ROOT, ids, names, opening, receipt


def receipts(journal: Journal) -> list[Receipt]:
    found: list[Receipt] = []
    for segment in journal.segments():
        lines, _ = journal.read(segment, 0, 1 << 26)
        found += [item for item in decode(lines) if item is not None]
    return found


def test_an_opening_without_a_receipt_gets_one_that_says_what_is_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in (1, 2, 3):
        journal.open(opening(number, tags={"team": "a"}))
    journal.append(receipt(2))
    journal.close()
    journal = Journal(tmp_path)
    assert recover(journal) == [opening(1, tags={"team": "a"}), opening(3, tags={"team": "a"})]
    mended = {item.id: item for item in receipts(journal)}
    assert list(mended) == names(2, 1, 3)
    lost = mended["att_000003"]
    assert (lost.outcome, lost.status, lost.code, lost.duration_ms) == ("lost", 500, "process_lost", 0.0)
    assert (lost.usage.input, lost.usage.output, lost.usage.estimated, lost.cost_nanos) == (3, 0, True, 3_000)
    assert (lost.call_id, lost.tenant, lost.tags) == ("req_3", "t", {"team": "a"})


def test_an_attempt_without_a_price_is_lost_without_a_cost(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    begun = opening(1)
    journal.open(msgspec.structs.replace(begun, opening=msgspec.structs.replace(begun.opening, cost_nanos=None)))
    journal.close()
    journal = Journal(tmp_path)
    recover(journal)
    assert [item.cost_nanos for item in receipts(journal)] == [None]


def test_a_second_start_finds_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open(opening(1))
    journal.close()
    journal = Journal(tmp_path)
    assert len(recover(journal)) == 1
    assert recover(journal) == []
    journal.close()
    journal = Journal(tmp_path)
    assert recover(journal) == []
    assert ids(journal) == names(1)


def test_a_start_that_dies_anywhere_in_recovery_is_finished_by_the_next(tmp_path: Path) -> None:
    """Every cut of what recovery writes: each id has one whole receipt in the end."""
    path = tmp_path / "log" / "00000001.jsonl"
    journal = Journal(path.parent)
    for number in range(3):
        journal.open(opening(number))
    before = journal.size(1)
    recover_after = Journal(path.parent)
    recover(recover_after)
    recover_after.close()
    journal.close()
    whole = path.read_bytes()
    for cut in range(before, len(whole)):
        path.write_bytes(whole[:cut])
        journal = Journal(path.parent)
        recover(journal)
        assert [name for name in ids(journal) if name is not None] == names(0, 1, 2)
        journal.close()


def test_an_opening_and_its_receipt_may_be_segments_apart(tmp_path: Path) -> None:
    rng = random.Random(5)
    journal = Journal(tmp_path, segment_bytes=3000)
    under_way: list[int] = []
    for number in range(300):
        journal.open(opening(number))
        under_way.append(number)
        while len(under_way) > rng.randrange(1, 12):
            journal.append(receipt(under_way.pop(rng.randrange(len(under_way)))))
        if rng.random() < 0.1:
            for segment in journal.segments()[: rng.randrange(3)]:
                journal.remove(segment)
    assert journal.current > 20
    journal.close()
    journal = Journal(tmp_path, segment_bytes=3000)
    assert sorted(found.opening.id for found in recover(journal)) == names(*sorted(under_way))
    assert journal.under_way == 0


def test_segments_of_an_older_version_are_read(tmp_path: Path) -> None:
    """They hold receipts only."""
    (tmp_path / "00000001.jsonl").write_bytes(msgspec.json.encode(receipt(1)) + b"\n")
    journal = Journal(tmp_path)
    assert recover(journal) == []
    assert ids(journal) == names(1)


def test_attempts_of_the_living_process_are_never_taken_for_lost(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open(opening(1))
    with pytest.raises(RuntimeError):
        recover(journal)


BUSY = """
import random, sys
from pathlib import Path
from headgate.ledger.journal import Journal
from headgate.ledger.recovery import recover
from tests.ledger.test_journal import opening, receipt

start, rng = int(sys.argv[2]), random.Random(int(sys.argv[2]))
journal = Journal(Path(sys.argv[1]), segment_bytes=200_000)
recover(journal)
under_way = []
for number in range(start, start + 1_000_000):
    journal.open(opening(number))
    under_way.append(number)
    print(number, flush=True)  # the attempt leaves
    if len(under_way) > 20:
        ended = under_way.pop(rng.randrange(20))
        journal.append(receipt(ended))
"""


def test_killed_again_and_again_every_attempt_that_left_has_exactly_one_entry(tmp_path: Path) -> None:
    rng = random.Random(1)
    left: list[str] = []
    for turn in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(tmp_path), str(turn * 1_000_000 // 8)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert worker.stdout is not None
        left.extend(f"att_{int(worker.stdout.readline()):06d}" for _ in range(rng.randrange(200, 3000)))
        os.kill(worker.pid, signal.SIGKILL)
        rest = worker.stdout.read()
        left += [f"att_{int(line):06d}" for line in rest.splitlines(keepends=True) if line.endswith("\n")]
        worker.stdout.close()
        worker.wait(10)
    journal = Journal(tmp_path)
    recover(journal)
    entries = [name for name in ids(journal) if name is not None]
    assert len(entries) == len(set(entries))
    missing = set(left) - set(entries)
    assert not missing
    assert len(set(entries) - set(left)) <= 4, "at most one per death was written and did not leave any more"

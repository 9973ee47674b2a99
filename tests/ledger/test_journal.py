"""The local log: every line whole, in order, whatever the disk does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from headgate.core.errors import Overloaded
from headgate.core.usage import Opening, Receipt, Usage
from headgate.ledger import journal as module
from headgate.ledger.journal import Journal, LedgerSettings, decode
from headgate.ledger.recovery import recover

ROOT = Path(__file__).parents[2]


def receipt(number: int, **more: Any) -> Receipt:
    return Receipt(
        id=f"att_{number:06d}", call_id=f"req_{number}", attempt=1, tenant="t", key_id="k", operation="chat", model="m",
        backend="b", upstream_model="m", started_at=1.7e9 + number, duration_ms=1.0, outcome="ok", status=200,
        usage=Usage(input=number, output=1), **more,
    )  # fmt: skip


def ids(journal: Journal, chunk: int = 1 << 20) -> list[str | None]:
    found: list[str | None] = []
    for segment in journal.segments():
        position = 0
        while True:
            lines, end = journal.read(segment, position, chunk)
            if end == position:
                break
            found += [item.id if item else None for item in decode(lines)]
            position = end
    return found


def names(*numbers: int) -> list[str]:
    return [f"att_{number:06d}" for number in numbers]


def test_what_was_appended_is_read_in_order_across_restarts(tmp_path: Path) -> None:
    for start in (0, 3):
        journal = Journal(tmp_path)
        for number in range(start, start + 3):
            journal.append(receipt(number))
        journal.sync()
        journal.close()
    assert ids(Journal(tmp_path)) == names(*range(6))


def test_a_torn_tail_is_closed_on_opening_and_costs_only_itself(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(receipt(1))
    journal.close()
    with (tmp_path / "00000001.jsonl").open("ab") as file:
        file.write(b'{"id":"att_half","call')
    journal = Journal(tmp_path)
    journal.append(receipt(2))
    assert ids(journal) == ["att_000001", None, "att_000002"]


def test_every_cut_of_the_last_line_leaves_the_others_readable(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(receipt(1))
    first = (tmp_path / "00000001.jsonl").stat().st_size
    journal.append(receipt(2))
    journal.close()
    whole = (tmp_path / "00000001.jsonl").read_bytes()
    for cut in range(first, len(whole)):
        (tmp_path / "00000001.jsonl").write_bytes(whole[:cut])
        journal = Journal(tmp_path)
        journal.append(receipt(3))
        found = [name for name in ids(journal) if name is not None]
        assert found[0] == "att_000001"
        assert found[-1] == "att_000003"
        journal.close()


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=2000)
    for number in range(50):
        journal.append(receipt(number))
    assert len(journal.segments()) > 5
    assert all(journal.size(segment) <= 2000 for segment in journal.segments())
    assert ids(journal) == names(*range(50))
    assert journal.current == journal.segments()[-1]


def test_the_segment_being_written_is_never_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=500)
    for number in range(5):
        journal.append(receipt(number))
    for segment in journal.segments():
        journal.remove(segment)
    assert journal.segments() == [journal.current]


def test_a_line_longer_than_what_is_read_at_once_is_read_whole(tmp_path: Path) -> None:
    """It once stopped the reader for ever, and the segment was then removed with all that followed."""
    journal = Journal(tmp_path)
    for number in range(4):
        journal.append(receipt(number, user="x" * 5000))
    assert ids(journal, chunk=100) == names(0, 1, 2, 3)


def test_only_whole_lines_are_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(receipt(1))
    end = journal.size(1)
    with (tmp_path / "00000001.jsonl").open("ab") as file:
        file.write(b'{"id"')
    assert journal.read(1, 0, 1 << 20)[1] == end
    assert journal.read(1, end, 1 << 20) == ([], end)


def test_syncing_does_not_depend_on_the_descriptor_that_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=300)
    for number in range(10):
        journal.append(receipt(number))
        journal.sync()
    journal.close()
    journal.sync()


FULL_DISK = """
import resource, sys
from pathlib import Path
from headgate.core.errors import Overloaded
from headgate.ledger.journal import Journal
from tests.ledger.test_journal import ids, names, receipt

journal, taken, refused = Journal(Path(sys.argv[1])), 0, 0
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(8):
    try:
        journal.append(receipt(number))
        taken += 1
    except Overloaded as error:
        refused += 1
        assert error.code == "ledger_unavailable" and error.retry_after
assert taken and refused, (taken, refused)
assert journal.broken
journal.probe()
assert journal.broken
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.probe()
assert journal.broken is None
journal.append(receipt(8))
found = [name for name in ids(journal) if name is not None]
assert found == names(*range(9)), found
assert journal.lost == 0
print("told the truth")
"""


def test_a_full_disk_refuses_aloud_tears_no_other_line_and_loses_no_receipt_once_it_has_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "told the truth\n", done.stderr


def test_what_could_not_be_written_is_bounded_and_the_loss_counted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    os.close(journal._fd)
    journal._fd = os.open("/dev/full", os.O_WRONLY)
    for number in range(module.UNWRITTEN_MAX + 7):
        with pytest.raises(Overloaded):
            journal.append(receipt(number))
    assert journal.lost == 7
    journal.close()


def opening(number: int, **more: Any) -> Opening:
    """As `pipeline.meter` writes them: an estimate of the input, and what budgets hold."""
    begun = receipt(number, **more)
    usage = Usage(input=number, estimated=True)
    return Opening(
        opening=structs.replace(begun, usage=usage, cost_nanos=number * 1_000, duration_ms=0.0),
        claim=f"claim_{number}",
        nanos=number * 2_000,
        tokens=number + 100,
        money_accounts=("budget:project:t:usd/month/all/*:2026-11",),
    )


def test_openings_are_not_receipts(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        journal.open(opening(number))
    journal.append(receipt(1))
    assert ids(journal) == names(1)
    assert journal.under_way == 2


def test_openings_under_way_are_repeated_in_a_new_segment_so_that_older_ones_may_go(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=2000)
    journal.open(opening(1))
    journal.open(opening(2))
    for number in range(10, 40):
        journal.append(receipt(number))
    journal.append(receipt(2))
    for segment in journal.segments():
        journal.remove(segment)
    journal.close()
    assert [found.opening.id for found in recover(Journal(tmp_path))] == names(1)


def test_segments_smaller_than_what_is_under_way_do_not_turn_round_and_round(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=2000)
    for number in range(40):
        journal.open(opening(number))
    before = journal.current
    for number in range(100, 120):
        journal.append(receipt(number))
    assert journal.current - before <= 5, "four receipts or more to a segment, beside what is carried"


def test_what_waits_for_sql_is_bounded_and_receipts_are_taken_all_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path, settings=LedgerSettings(max_unshipped_mb=1))
    number = 0
    while not journal.full:
        journal.open(opening(number, user="x" * 20_000))
        number += 1
    assert 1 << 20 < journal.unshipped < (1 << 20) + 30_000
    with pytest.raises(Overloaded) as refused:
        journal.open(opening(number))
    assert (refused.value.code, refused.value.retry_after) == ("ledger_behind", 5.0)
    for earlier in range(number):
        journal.append(receipt(earlier))
    assert journal.under_way == 0
    journal.close()
    assert Journal(tmp_path, settings=LedgerSettings(max_unshipped_mb=1)).full


FULL_DISK_FOR_OPENINGS = """
import resource, sys
from pathlib import Path
from headgate.core.errors import Overloaded
from headgate.ledger.journal import Journal
from headgate.ledger.recovery import recover
from tests.ledger.test_journal import ids, names, opening, receipt

home = Path(sys.argv[1])
for room in range(1000, 2200):
    folder = home / str(room)
    journal, taken, refused = Journal(folder, segment_bytes=int(sys.argv[2])), [], []
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for number in range(6):
        try:
            journal.open(opening(number))
            taken.append(number)
        except Overloaded as error:
            refused.append(number)
            assert error.code == "ledger_unavailable" and journal.broken
    assert taken, room
    try:
        journal.append(receipt(taken[0]))
    except Overloaded:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if room % 2:
        journal.probe()
        assert journal.broken is None and journal.under_way == len(taken) - 1
        journal.open(opening(50))
        taken.append(50)
        if room % 4 == 1:
            assert [name for name in ids(journal) if name] == names(taken[0])
        journal.close()
        taken = taken[1:]
        left = [found.opening.id for found in recover(Journal(folder))]
    else:  # killed while the disk is full
        left = [found.opening.id for found in recover(Journal(folder))]
        taken = taken[len(taken) - len(left):]
    assert left == names(*taken), (room, left, taken)
print("told the truth")
"""


@pytest.mark.parametrize("segment_bytes", [1 << 20, 700])
def test_an_opening_the_disk_did_not_take_was_never_begun_wherever_its_line_was_cut(
    tmp_path: Path, segment_bytes: int
) -> None:
    """Cut at every byte, the last included: a line that lacks but its newline would else become whole later."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK_FOR_OPENINGS, str(tmp_path), str(segment_bytes)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "told the truth\n", done.stderr


def test_a_disk_error_refuses_openings_until_it_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    kept, journal._fd = journal._fd, os.open("/dev/full", os.O_WRONLY)
    for number in range(3):
        with pytest.raises(Overloaded) as refused:
            journal.open(opening(number))
        assert refused.value.code == "ledger_unavailable"
    os.close(journal._fd)
    journal._fd = kept
    journal.open(opening(3))
    assert journal.broken is None
    journal.close()
    assert [found.opening.id for found in recover(Journal(tmp_path))] == names(3)

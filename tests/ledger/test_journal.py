"""The local log: every line whole, in order, whatever the disk does."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headgate.core.errors import Overloaded
from headgate.core.usage import Receipt, Usage
from headgate.ledger import journal as module
from headgate.ledger.journal import Journal, decode

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

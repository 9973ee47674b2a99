"""What a process that died left behind: openings without receipts, each of which gets one.

The idea is that of a write-ahead log's undo pass (Mohan et al., "ARIES", ACM TODS 17(1), 1992): read the log once from
its start, remember what began and did not end, and write the missing ends. Nobody knows what the upstream had said by
then, so the entry says what the opening did: the counted prompt, estimated, and what that costs.
"""

import msgspec
from msgspec import Struct, structs

from headgate.core.usage import Opening, Receipt
from headgate.ledger.journal import OPENING, Journal

CHUNK_BYTES = 1024 * 1024
LOST_STATUS = 500
"""What the caller would have seen, had anyone been left to answer. Not 0: whoever counts statuses expects HTTP's."""
LOST_CODE = "process_lost"


class _Ended(Struct):
    """Of a receipt, what is needed here; the rest of the line is checked and passed over."""

    id: str


def recover(journal: Journal) -> list[Opening]:
    """Writes a receipt with outcome `lost` for every opening that has none, and returns those openings, oldest first.

    For the start of a process, before the shipper runs and before any call is let in: the caller holds the home's lock,
    so that whoever wrote the openings is dead. Their budget holds are the caller's to settle. A process that dies in
    here leaves some with a receipt and some without; the next one goes on with the latter. A hold that thereby is never
    settled stays counted as spent, never as free.

    Blocking: reads the journal once, a megabyte at a time; only what has no receipt stays in memory. Raises
    `Overloaded` where the journal cannot be written, `OSError` where it cannot be read, and `RuntimeError` where this
    process has begun attempts already.
    """
    if journal.under_way:
        raise RuntimeError("recovery is for the start of a process: attempts of this one are under way")
    found = _unsettled(journal)
    for opening in found:
        journal.append(lost(opening))
    return found


def lost(opening: Opening) -> Receipt:
    """The receipt of an attempt whose process died: its duration is not known, its usage what the opening counted."""
    begun = opening.opening
    return structs.replace(
        begun,
        outcome="lost",
        status=LOST_STATUS,
        code=LOST_CODE,
        duration_ms=0.0,
        usage=structs.replace(begun.usage, estimated=True),
    )


def _unsettled(journal: Journal) -> list[Opening]:
    """An opening stands before its receipt; where a segment was full in between, it is repeated in the next."""
    ended, opened = msgspec.json.Decoder(_Ended), msgspec.json.Decoder(Opening)
    lines: dict[str, bytes] = {}
    for segment in journal.segments():
        position = 0
        while True:
            chunk, end = journal.read(segment, position, CHUNK_BYTES)
            if end == position:
                break
            for line in filter(None, chunk):
                try:
                    if line.startswith(OPENING):
                        lines[opened.decode(line).opening.id] = line
                    else:
                        lines.pop(ended.decode(line).id, None)
                except msgspec.DecodeError:
                    continue  # torn: whoever wrote it was told so, or was killed while writing
            position = end
    return [opened.decode(line) for line in lines.values()]

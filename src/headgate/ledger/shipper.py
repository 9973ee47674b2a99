"""The ledger's second half: moves receipts from the journal to SQL, each exactly once.

The rows and the read position go into one transaction, and rows are keyed by receipt id: a crash anywhere repeats
nothing and loses nothing.
"""

import asyncio

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.usage import Receipt
from headgate.ledger.journal import Journal, decode
from headgate.ledger.store import Store
from headgate.telemetry import names
from headgate.telemetry.log import Log

BATCH_BYTES = 1024 * 1024
GATHER_SECONDS = 0.2
"""How long receipts gather before a batch is written: SQL sees a few transactions a second, not one a call."""
BACKOFF_SECONDS_MAX = 5.0
"""A database that is back is told all of it within ten seconds: what else asks it meanwhile asks more often."""


class Shipper:
    """One task of the process. `instance` names this journal among those of other replicas on the same SQL."""

    def __init__(self, journal: Journal, store: Store, instance: str, clock: Clock, log: Log) -> None:
        self._journal = journal
        self._store = store
        self._instance = instance
        self._clock = clock
        self._log = log
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._positions: dict[int, int] = {}
        self.torn = 0
        journal.on_append = self._wake.set

    async def run(self) -> None:
        """Until cancelled. Trouble with SQL is retried with growing pauses; the journal keeps what waits."""
        pause = 1.0
        while True:
            try:
                await self.flush()
                pause = 1.0
            except (HeadgateError, OSError) as error:
                self._lagging(error)
                await self._clock.sleep(pause)
                pause = min(pause * 2, BACKOFF_SECONDS_MAX)
                continue
            await self._wake.wait()
            await self._clock.sleep(GATHER_SECONDS)

    async def flush(self) -> None:
        """Ships everything the journal holds at this moment. Raises what SQL and the disk raise.

        What is appended meanwhile is left to the next: else it would not end while calls come in, and those who wait
        for it would wait for a pause.
        """
        async with self._turn:
            self._wake.clear()
            current = self._journal.current
            for segment, size in [(number, self._journal.size(number)) for number in self._journal.segments()]:
                await self._ship(segment, size)
                if segment < current:
                    await self._store.forget_position(self._log_name(segment))
                    self._journal.remove(segment)
                    self._positions.pop(segment, None)
            self._journal.unshipped = self.unshipped()

    async def finish(self, seconds: float) -> None:
        """The last flush of a process; what it does not manage is shipped at the next start."""
        try:
            async with asyncio.timeout(seconds):
                await self.flush()
        except (HeadgateError, OSError) as error:  # a TimeoutError is an OSError
            self._lagging(error)

    def unshipped(self) -> int:
        """Bytes of the journal that SQL does not have yet."""
        return sum(self._journal.size(n) - self._positions.get(n, 0) for n in self._journal.segments())

    def _lagging(self, error: Exception) -> None:
        detail = str(error) or type(error).__name__
        # Not measured: the disk may be what is in trouble.
        self._log.event(names.LEDGER_LAGGING, "warning", error=detail, unshipped_bytes=self._journal.unshipped)

    async def _ship(self, segment: int, size: int) -> None:
        """Up to `size` bytes at least."""
        if segment not in self._positions:
            known = await self._store.position(self._log_name(segment))
            # Beyond its end: SQL remembers another file of this name, from a folder that was removed. Read this one
            # whole; receipts that are there already are not added again.
            self._positions[segment] = known if known <= size else 0
        while (start := self._positions[segment]) < size:
            lines, end = await asyncio.to_thread(self._journal.read, segment, start, BATCH_BYTES)
            if end == start:  # a torn line is all that is left
                return
            await asyncio.to_thread(self._journal.sync)
            receipts: list[Receipt] = []
            for receipt in await asyncio.to_thread(list, decode(lines)):
                if receipt is None:
                    self.torn += 1
                    self._log.event(names.LEDGER_TORN, "error", segment=segment)
                else:
                    receipts.append(receipt)
            await self._store.add_receipts(receipts, self._log_name(segment), end)
            self._positions[segment] = end
            self._journal.unshipped = self.unshipped()

    def _log_name(self, segment: int) -> str:
        return f"{self._instance}/{segment:08d}"

"""From the local log to SQL: each receipt exactly once, through crashes, repeats and a database that is away."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from headgate.core.errors import Overloaded
from headgate.core.usage import Receipt
from headgate.ledger.journal import Journal, LedgerSettings
from headgate.ledger.recovery import recover
from headgate.ledger.shipper import Shipper
from headgate.ledger.store import Store
from headgate.storage.sql import tables_ledger as tables
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.telemetry.log import Log
from tests.clock import VirtualClock
from tests.ledger.test_journal import names, opening, receipt
from tests.pipeline.spine import until


class Shaky(Store):
    """A store that fails as told: before a transaction, or after it as if the answer had been lost."""

    before = after = 0
    away = False
    meanwhile: Callable[[], None] = staticmethod(lambda: None)
    """What happens while it adds."""

    async def add_receipts(self, receipts: Sequence[Receipt], log: str, position: int) -> None:
        if self.away or self.before > 0:
            self.before -= 1
            raise Overloaded("the database is away")
        await super().add_receipts(receipts, log, position)
        self.meanwhile()
        if self.after > 0:
            self.after -= 1
            raise Overloaded("the answer was lost")


class Works:
    def __init__(self, folder: Path, sql: Sql, segment_bytes: int = 1500) -> None:
        self.folder, self.sql = folder, sql
        self.segment_bytes = segment_bytes
        self.lines: list[str] = []
        self.clock = VirtualClock()
        self.start()

    def start(self) -> None:
        """As a process does; what an earlier one knew is forgotten."""
        self.journal = Journal(self.folder, self.segment_bytes)
        self.store = Shaky(self.sql)
        self.shipper = Shipper(
            self.journal, self.store, "home1", self.clock, Log(self.clock, "debug", self.lines.append)
        )

    def append(self, *numbers: int) -> None:
        for number in numbers:
            self.journal.append(receipt(number))

    async def ledger(self) -> list[str]:
        query = sa.select(tables.ledger.c.id).order_by(tables.ledger.c.id)
        return await self.sql.read(lambda db: [str(row[0]) for row in db.execute(query)])


@asynccontextmanager
async def works(tmp_path: Path, url: str | None = None, **more: Any) -> AsyncIterator[Works]:
    sql = await open_sql(url or f"sqlite:///{tmp_path}/ledger.db")
    try:
        yield Works(tmp_path / "ledger", sql, **more)
    finally:
        await sql.aclose()


def test_everything_is_shipped_once_and_old_segments_go(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with works(tmp_path, sql_url) as house:
            house.append(*range(20))
            assert house.shipper.unshipped() > 0
            await house.shipper.flush()
            await house.shipper.flush()
            assert await house.ledger() == names(*range(20))
            assert house.journal.segments() == [house.journal.current]
            assert house.shipper.unshipped() == 0

    asyncio.run(main())


def test_a_process_killed_anywhere_between_neither_loses_nor_repeats(tmp_path: Path) -> None:
    """Crash points: before the transaction, after it, and between forgetting a position and removing its segment."""

    async def main() -> None:
        async with works(tmp_path, segment_bytes=900) as house:
            rng, count = random.Random(3), 0
            for _ in range(40):
                house.append(*range(count, count := count + rng.randrange(1, 5)))
                house.store.before, house.store.after = rng.choice([(1, 0), (0, 1), (0, 0), (0, 0)])
                try:
                    await house.shipper.flush()
                except Overloaded:
                    pass
                if rng.random() < 0.5:
                    if rng.random() < 0.5:
                        kept = tmp_path / "kept"
                        shutil.copytree(house.folder, kept, dirs_exist_ok=True)
                        await house.shipper.flush()
                        shutil.copytree(kept, house.folder, dirs_exist_ok=True)
                        shutil.rmtree(kept)
                    house.start()
            await house.shipper.flush()
            assert await house.ledger() == names(*range(count))

    asyncio.run(main())


def test_a_replayed_log_adds_nothing(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with works(tmp_path, sql_url, segment_bytes=1 << 20) as house:
            house.append(*range(10))
            await house.shipper.flush()
            await house.store.forget_position("home1/00000001")
            house.start()
            house.append(10)
            await house.shipper.flush()
            assert await house.ledger() == names(*range(11))

    asyncio.run(main())


def test_a_log_folder_that_was_removed_does_not_hide_the_receipts_of_the_next(tmp_path: Path) -> None:
    """SQL then remembers a position in a file that is no more; it once skipped as many bytes of the new one."""

    async def main() -> None:
        async with works(tmp_path, segment_bytes=1 << 20) as house:
            house.append(*range(10))
            await house.shipper.flush()
            house.journal.close()
            shutil.rmtree(house.folder)
            house.start()
            house.append(100)
            await house.shipper.flush()
            assert await house.ledger() == names(*range(10), 100)

    asyncio.run(main())


def test_a_torn_line_is_reported_and_passed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            house.append(1)
            house.journal.close()
            with (house.folder / "00000001.jsonl").open("ab") as file:
                file.write(b'{"torn')
            house.start()
            house.append(2)
            await house.shipper.flush()
            assert await house.ledger() == names(1, 2)
            assert house.shipper.torn == 1
            assert any("ledger.torn_line" in line for line in house.lines)

    asyncio.run(main())


def test_while_sql_is_away_the_log_keeps_what_waits_and_ships_it_after(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            task = asyncio.create_task(house.shipper.run())
            house.store.away = True
            house.append(*range(5))
            for _ in range(4):
                await until(lambda: house.clock.sleeping == 1)
                await house.clock.advance(31)
            assert await house.ledger() == []
            assert any("ledger.lagging" in line and "unshipped_bytes" in line for line in house.lines)
            house.store.away = False
            async with asyncio.timeout(10):
                while await house.ledger() != names(*range(5)):
                    await house.clock.advance(31)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_disk_that_cannot_be_read_for_a_moment_does_not_end_the_shipper(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            house.append(1)
            path = house.folder / "00000001.jsonl"
            hidden = path.with_suffix(".away")
            path.rename(hidden)
            path.mkdir()
            task = asyncio.create_task(house.shipper.run())
            await until(lambda: any("ledger.lagging" in line for line in house.lines))
            path.rmdir()
            hidden.rename(path)
            async with asyncio.timeout(10):
                while await house.ledger() != names(1):
                    await house.clock.advance(31)
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_a_disk_that_cannot_even_be_measured_does_not_end_the_shipper(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            house.append(1)
            gone = house.folder / "00000000.jsonl"
            gone.symlink_to(house.folder / "nowhere")
            task = asyncio.create_task(house.shipper.run())
            await until(lambda: any("ledger.lagging" in line for line in house.lines))
            gone.unlink()
            async with asyncio.timeout(10):
                while await house.ledger() != names(1):
                    await house.clock.advance(31)
            assert not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize("segment_bytes", [1_000_000, 1500])
def test_a_flush_ends_however_many_receipts_come_meanwhile(tmp_path: Path, segment_bytes: int) -> None:
    """Budgets and administrators wait for it: it ships what there was when they asked, and leaves the rest."""

    async def main() -> None:
        async with works(tmp_path, segment_bytes=segment_bytes) as house:
            numbers = iter(range(10_000))

            def others_append() -> None:
                house.append(*islice(numbers, 10))

            others_append()
            house.store.meanwhile = others_append
            async with asyncio.timeout(20):
                await house.shipper.flush()
            shipped = await house.ledger()
            assert set(names(*range(10))) <= set(shipped)
            house.store.meanwhile = lambda: None
            await house.shipper.flush()
            everything = names(*range(next(numbers)))
            assert await house.ledger() == everything
            assert len(everything) <= 50

    asyncio.run(main())


def test_a_receipt_with_odd_text_or_numbers_does_not_hold_up_the_rest(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with works(tmp_path, sql_url) as house:
            odd = receipt(1, user="a\x00b")
            usage = type(odd.usage)(input=10**30, output=1)
            house.journal.append(msgspec.structs.replace(odd, tags={"k\x00": "v\x00"}))
            house.append(2)
            house.journal.append(msgspec.structs.replace(receipt(3), model="m" * 10_000))
            await house.store.add_receipts([msgspec.structs.replace(receipt(4), usage=usage)], "other", 0)
            await house.shipper.flush()
            assert await house.ledger() == names(1, 2, 3, 4)

    asyncio.run(main())


def test_shutdown_gives_up_after_its_time_and_the_next_start_ships_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            house.append(1)
            house.store.away = True
            await house.shipper.finish(1.0)
            assert any("ledger.lagging" in line for line in house.lines)
            house.start()
            await house.shipper.finish(10.0)
            assert await house.ledger() == names(1)

    asyncio.run(main())


def test_openings_are_passed_over_and_their_segments_go_while_they_are_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            house.journal.open(opening(999))
            for number in range(20):
                house.journal.open(opening(number))
                house.append(number)
                if number % 3 == 0:
                    await house.shipper.flush()
            await house.shipper.flush()
            assert await house.ledger() == names(*range(20))
            assert house.journal.segments() == [house.journal.current]
            assert house.shipper.unshipped() == house.journal.unshipped == 0
            assert house.shipper.torn == 0
            house.start()
            assert [found.opening.id for found in recover(house.journal)] == names(999)
            await house.shipper.flush()
            assert await house.ledger() == names(*range(20), 999)

    asyncio.run(main())


def test_new_work_is_refused_while_too_much_waits_and_taken_again_once_sql_is_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with works(tmp_path) as house:
            journal = Journal(tmp_path / "bounded", settings=LedgerSettings(max_unshipped_mb=1))
            shipper = Shipper(journal, house.store, "home2", house.clock, Log(house.clock, "error", print))
            house.store.away = True
            for number in range(60):
                journal.append(receipt(number, user="x" * 20_000))
            with pytest.raises(Overloaded):
                await shipper.flush()
            assert journal.unshipped > 1 << 20
            with pytest.raises(Overloaded) as refused:
                journal.open(opening(100))
            assert refused.value.code == "ledger_behind"
            house.store.away = False
            await shipper.flush()
            assert not journal.full
            journal.open(opening(100))
            assert len(await house.ledger()) == 60

    asyncio.run(main())

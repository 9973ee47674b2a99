"""One server process, made of the real request path over a folder, a database and limits; it can be dropped dead."""

import asyncio
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import sqlalchemy as sa

from headgate.app.config import Config
from headgate.app.pathway import pathway, settle_lost
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.ids import Ids
from headgate.core.limiter import Limiter
from headgate.core.ports import Backend
from headgate.core.principal import KeyTable
from headgate.core.target import Route, RouteTable, Target
from headgate.ledger.accounts.questions import Spending, SpendQuestion
from headgate.ledger.accounts.store import Store as Reader
from headgate.ledger.journal import Journal
from headgate.ledger.prices import Price, PriceBook, PriceTable
from headgate.ledger.recovery import recover
from headgate.ledger.shipper import Shipper
from headgate.ledger.store import Store
from headgate.pipeline.admission import AdmissionSettings
from headgate.pipeline.auth import Auth
from headgate.pipeline.meter import Meter
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from tests.books.inline import InlineSql
from tests.books.limits import Seen, Watched
from tests.books.people import SECRET
from tests.books.truth import PRICES

SEGMENT_BYTES = 30_000
SINCE = date(2020, 1, 1)
BOOK = PriceBook("v1", tuple(Price(name, SINCE, into / 1e3, out / 1e3) for name, (into, out) in PRICES.items()))
CONFIG = Config(admission=AdmissionSettings(concurrency=10, queue=8, budget_output_tokens=40))
METRICS = Metrics()


@dataclass(frozen=True)
class Around:
    """What outlives processes."""

    clock: Clock
    rng: random.Random
    engine: sa.Engine
    limiter: Limiter
    seen: Seen
    shared: bool
    backends: Mapping[str, Backend]


class House:
    def __init__(self, around: Around, folder: Path, table: KeyTable) -> None:
        self.seen = around.seen
        self.folder = folder
        self.lines: list[str] = []
        clock, log = around.clock, Log(around.clock, "error", self.lines.append)
        self.sql = InlineSql(around.engine)
        self.limiter = Watched(around.limiter, around.seen, around.shared)
        self.journal = Journal(folder, SEGMENT_BYTES)
        self.found = recover(self.journal)
        settle_lost(self.limiter, self.found)
        self.shipper = Shipper(self.journal, Store(self.sql), "home", clock, log)
        self._spending = Spending(Reader(self.sql), self.shipper.flush)
        meter = Meter(clock, Ids(clock, around.rng), PriceTable(BOOK), self.journal, METRICS, log)
        self.auth = Auth(clock, SECRET, table)
        self.path = pathway(CONFIG, self.auth, self.limiter, self._spent, meter, around.rng)
        self.gateway = self.path.gateway
        self.path.upstreams.use(around.backends, {})
        routes = {
            name: Route(name, (Target("a", name),), (Target("b", name), Target("c", "m"))) for name in PRICES
        }  # fmt: skip
        self.gateway.routes = RouteTable(1, routes)

    async def _spent(self, questions: Sequence[SpendQuestion]) -> Sequence[tuple[int, int]]:
        with self.seen.working():
            return await self._spending.spent(questions)

    async def ship(self) -> bool:
        """False where the database was away."""
        with self.seen.working():
            try:
                await self.shipper.flush()
            except HeadgateError:
                return False
            return True

    def die(self, folder: Path) -> Path:
        """Like kill -9: what the log has stays, in the folder that is returned; the rest is gone."""
        shutil.copytree(self.folder, folder)
        self.sql.dead = True
        self.limiter.die(_unended(folder))
        return folder

    async def at_rest(self) -> None:
        await self.limiter.flush()
        assert (self.gateway.admission.gate.active, self.gateway.admission.gate.waiting) == (0, 0)
        assert not any(self.path.gates.active().values())
        assert not any(self.path.gates.waiting().values())
        assert self.journal.under_way == 0
        assert not self.limiter.holds


def _unended(folder: Path) -> set[str]:
    """Claims whose attempt has no receipt in the log: recovery will settle them. Read with other eyes than its own."""
    opened: dict[str, str] = {}
    ended = set()
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            told = json.loads(line)
            if "opening" in told:
                opened[told["opening"]["id"]] = told["claim"]
            else:
                ended.add(told["id"])
    return {claim for id_, claim in opened.items() if id_ not in ended}


class Client:
    """One caller and its call."""

    def __init__(self, house: House, call: Call, leaves_after: int | None) -> None:
        self.call = call
        self.refused: HeadgateError | None = None
        self.whole = False
        """It had the answer to its end."""
        self._leaves_after = leaves_after
        self.task = asyncio.get_running_loop().create_task(self._run(house))

    async def _run(self, house: House) -> None:
        try:
            reply = await house.gateway.handle(self.call)
        except HeadgateError as error:
            self.refused = error
            return
        try:
            heard = 0
            if reply.stream is not None:
                async for _ in reply.stream:
                    heard += 1
                    if heard == self._leaves_after:
                        return
            self.whole = True
        except HeadgateError as error:
            self.refused = error
        finally:
            await reply.aclose()

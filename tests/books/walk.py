"""A random walk over the whole: calls, ends, crashes, lost answers, time, policies; next to the model at each step."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.limiter import Cost, Limiter, Place, Plan
from headgate.core.usage import Usage
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.sql import tables_ledger as tables
from tests.books.house import Around, Client, House
from tests.books.limits import Seen
from tests.books.people import CHANGED, KEYS, key_table
from tests.books.relay import Relay
from tests.books.truth import Act, End, Stage, Truth, Try, sums
from tests.pipeline.spine import make_call

START = 20_000 * 86_400.0 + 43_200
"""A noon."""
OPEN_MAX = 40
ENDS: tuple[End, ...] = ("usage", "usage", "usage", "usage", "usage", "usage", "silent", "error", "cut", "hang")
WEIGHTS = {
    "start": 33, "go on": 22, "finish": 14, "leave": 5, "start and cancel": 5, "ship": 5, "ledger fails": 3,
    "limits fail": 3, "crash": 1.5, "crash while shipping": 1.0, "time": 4, "midnight": 0.2, "policy": 2,
    "compare": 1, "quiet": 0.7,
}  # fmt: skip


class Time(Clock, Protocol):
    """Stands still until it is moved."""

    async def advance(self, seconds: float) -> None: ...

    async def settle(self) -> None: ...


class Walk:
    """`limiter` None: limits in memory, gone with each process; else they outlive it, and may be behind `proxy`."""

    def __init__(
        self,
        folder: Path,
        engine: sa.Engine,
        seed: int,
        clock: Time,
        limiter: Limiter | None,
        proxy: Relay | None = None,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.did: Counter[str] = Counter()
        self.seen = Seen()
        self.truth = Truth()
        self.recovered = 0
        self.failed = 0
        """Transactions that failed."""
        self._clock = clock
        self._folder = folder
        self._engine = engine
        self._shared = limiter
        self._proxy = proxy
        self._acts: list[Act] = [self._act()]
        self._stages = {name: Stage(name, clock, self.truth.tries, self._acts) for name in "abc"}
        self._clients: list[Client] = []
        self._factors: dict[str, float] = {}
        self._totals: dict[str, int] = {}
        """By account, what was spent and held when last looked at."""
        self._over: Counter[str] = Counter()
        self._number = 0
        self._house = self._build(folder / "home-0")

    async def run(self, steps: int) -> None:
        steps_by_name: dict[str, Callable[[], Awaitable[None]]] = {
            "start": self._start, "go on": self._go, "finish": self._finish, "leave": self._leave,
            "start and cancel": self._cancel, "ship": self._ship, "ledger fails": self._ledger_fails,
            "limits fail": self._limits_fail, "crash": self._crash, "crash while shipping": self._crash_in_shipping,
            "time": self._time, "midnight": self._midnight, "policy": self._policy, "compare": self._compare,
            "quiet": self._quiet,
        }  # fmt: skip
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for step in range(steps):
            name = self.rng.choices(names, weights)[0]
            self.did[name] += 1
            try:
                await steps_by_name[name]()
                await self._settle()
                await self._look()
            except BaseException as error:
                error.add_note(f"seed {self.seed}, step {step} ({name})")
                raise
        await self._quiet()
        self._bury()

    # What may happen

    async def _start(self) -> None:
        self._begin()

    def _begin(self) -> Client | None:
        self._clients = [client for client in self._clients if not self._over_with(client)]
        if len(self._clients) >= OPEN_MAX:
            return None
        rng = self.rng
        self._acts[:] = [self._act() for _ in range(2)]
        key = rng.choice(list(KEYS))
        more: dict[str, Any] = {"user": rng.choice(["v0", "v1"])} if rng.random() < 0.3 else {}
        if rng.random() < 0.9:
            more["max_tokens"] = rng.randrange(1, 30)
        text, stream = "w " * rng.randrange(30), rng.random() < 0.6
        call = make_call(self._clock, rng.choice("mn"), credential=key, stream=stream, text=text, **more)
        client = Client(self._house, call, rng.choice([None, None, None, 1, 2]))
        self._clients.append(client)
        return client

    async def _go(self) -> None:
        for attempt in self._some(3):
            attempt.go(self.rng.randrange(1, 4))

    async def _finish(self) -> None:
        for attempt in self._some(2):
            attempt.go(free=True)

    async def _leave(self) -> None:
        clients = [client for client in self._clients if not client.task.done()]
        if clients:
            self.rng.choice(clients).task.cancel()

    async def _cancel(self) -> None:
        """At any await of the path, wherever that is."""
        client = self._begin()
        if client is not None:
            turns = self.rng.randrange(30)
            for turn in range(60):
                await asyncio.sleep(0)
                if turn == turns:
                    client.task.cancel()
                for attempt in self._open():
                    if attempt.call is client.call or attempt.call.id == client.call.id:
                        attempt.go()

    async def _ship(self) -> None:
        if not await self._house.ship():
            assert self._house.sql.failed

    async def _ledger_fails(self) -> None:
        self._house.sql.fates.append(self.rng.choice(("before", "after")))
        if self.rng.random() < 0.7:
            await self._house.ship()

    async def _limits_fail(self) -> None:
        if self._proxy is None:
            self._house.limiter.fates.append(self.rng.choice(("taken", "not taken")))
            return
        self._proxy.fates.append("before" if self.rng.random() < 0.5 else "after")
        self._begin()
        await self._settle()
        if not self._proxy.fates:
            self.seen.replies_lost += 1
        self._proxy.fates.clear()

    async def _crash(self) -> None:
        if self.rng.random() < 0.5:  # in the middle of something
            self._begin()
            for _ in range(self.rng.randrange(20)):
                await asyncio.sleep(0)
        await self._die()

    async def _crash_in_shipping(self) -> None:
        shipping = asyncio.get_running_loop().create_task(self._house.ship())
        for _ in range(self.rng.randrange(40)):
            await asyncio.sleep(0)
        await self._die()
        await shipping

    async def _time(self) -> None:
        await self._pass(self.rng.choice([0.01, 0.5, 3, 20, 70, 200, self.rng.uniform(0, 4_000)]))

    async def _midnight(self) -> None:
        """To just before it, with calls under way."""
        await self._pass(86_400 - self._clock.now() % 86_400 - self.rng.uniform(0, 3))
        for _ in range(5):
            self._begin()
            await self._settle()
        await self._pass(3.0)

    async def _policy(self) -> None:
        self._factors[self.rng.choice(CHANGED)] = self.rng.choice([0.1, 0.7, 1.0, 2.0, 4.0])
        self._house.auth.table = key_table(self._factors)

    async def _compare(self) -> None:
        with self.seen.working():
            try:
                await self._house.path.seeds.compare()
            except HeadgateError:
                assert self._house.sql.failed

    # What must hold

    async def _look(self) -> None:
        """At any moment: nothing is negative, and nothing was let in beyond a limit."""
        accounts = list(self.seen.accounts.values())
        states = await self._house.limiter.balances([account.key for account in accounts])
        for account, state in zip(accounts, states, strict=True):
            if state is None:
                continue
            assert state.spent >= 0 <= state.held, (account.key, state)
            total, more = state.spent + state.held, self.seen.over[account.key] - self._over[account.key]
            most = max(self._totals.get(account.key, 0), account.limit) + more
            if account.hard and total > most:
                unheld = self._crossed()[1][account.key]
                assert total <= most + unheld, f"{account.key}: {total} of {account.limit}, {unheld} came from nowhere"
            self._totals[account.key] = total
        self._over = Counter(self.seen.over)
        inside = Counter(attempt.call.credential for attempt in self._open())
        assert inside["k0"] <= 3
        assert sum(inside[key] for key, (tenant, _) in KEYS.items() if tenant == "t1") <= 6

    async def _quiet(self) -> None:
        """Everything comes to its end; then the ledger, the accounts and the model say the same."""
        await self._end_all()
        house = self._house
        house.sql.fates.clear()
        house.limiter.fates.clear()
        await self._pass(800.0)  # holds of dead processes are over, and accounts are due for comparing
        await house.at_rest()
        await house.path.seeds.compare()
        assert await house.ship()
        assert house.shipper.unshipped() == 0
        assert not house.shipper.torn
        rows = self._rows()
        self.truth.check(rows)
        keys, (elsewhere, from_elsewhere) = list(self.seen.accounts), self._crossed()
        for key, state in zip(keys, await house.limiter.balances(keys), strict=True):
            if state is None:
                continue
            told = sums(rows, key) + self.seen.lost[key]
            assert state.held == 0, (key, state)
            if elsewhere[key] or from_elsewhere[key]:
                # The process that made the account compares it later; one that dies before that does not.
                least = sums(rows, key) - (from_elsewhere[key] if self._shared is not None else 0)
                assert least <= state.spent <= told + elsewhere[key], (key, state, least, told)
            else:
                assert state.spent == told, f"{key} knows of {state.spent}, the ledger of {told}"
        for place in self.seen.places:
            plan = Plan(places=(Place(key=place, limit=1),))
            assert (await house.limiter.inner.reserve("probe", plan, Cost(), 1.0)).allowed, f"{place} is not free"
            house.limiter.inner.settle("probe", plan, Cost(), Cost())

    def _crossed(self) -> tuple[Counter[str], Counter[str]]:
        """What was paid from an account of one period and is of another by the ledger, which goes by the attempt's own
        begin: a call that waited, or fell back, over midnight. By the account that paid, and by the one that did not.
        """
        paid_here, of_there = Counter[str](), Counter[str]()
        for (claim, key), amount in self.seen.paid.items():
            prefix, _, period = key.rpartition(":")
            call, *_, number = (*claim.split("/"), "1") if "/" not in claim else claim.split("/")
            attempt = self.truth.tries.get((call, int(number)))
            if attempt is None or period == "all":
                continue
            of = datetime.fromtimestamp(attempt.started, UTC).date().isoformat()[: len(period)]
            if of != period:
                paid_here[key] += amount
                of_there[f"{prefix}:{of}"] += amount
        return paid_here, of_there

    # How it is done

    def _build(self, home: Path) -> House:
        limiter = MemoryLimiter(self._clock) if self._shared is None else self._shared
        around = Around(
            self._clock, self.rng, self._engine, limiter, self.seen, self._shared is not None, self._stages
        )  # fmt: skip
        self._number += 1
        for stage in self._stages.values():
            stage.process = self._number
        house = House(around, home, key_table(self._factors))
        self.recovered += len(house.found)
        return house

    async def _die(self) -> None:
        alive = [client for client in self._clients if not self._over_with(client)]
        gone = {client.call.id for client in alive}
        for attempt in self.truth.tries.values():
            if attempt.call.id in gone and attempt.at_crash is None:
                attempt.at_crash = attempt.state
        self._house.die(self._folder / f"home-{self._number}")
        for client in alive:
            client.task.cancel()
        await asyncio.gather(*(client.task for client in alive), return_exceptions=True)
        self._clients = []
        self._bury()
        self._house = self._build(self._folder / f"home-{self._number}")

    def _bury(self) -> None:
        self.failed += self._house.sql.failed
        self._house.journal.close()

    async def _pass(self, seconds: float) -> None:
        await self._clock.advance(seconds)
        for attempt in self._open():
            if attempt.call.deadline.at <= self._clock.monotonic():
                attempt.go(late=True)
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(10_000):
            await self._clock.settle()
            if not self.seen.busy:
                return
            if self._proxy is not None:
                await asyncio.sleep(0.0005)
        raise AssertionError("it never comes to rest")

    async def _end_all(self) -> None:
        for turn in range(200):
            for attempt in self._open():
                attempt.go(free=True)
            await self._settle()
            for attempt in self._open():
                if attempt.act.end == "hang":
                    attempt.go(late=True)
            await self._settle()
            self._clients = [client for client in self._clients if not self._over_with(client)]
            if not self._clients:
                return
            await self._pass(10.0 if turn % 10 == 9 else 1.0)
        raise AssertionError(f"{len(self._clients)} calls never end")

    def _over_with(self, client: Client) -> bool:
        if not client.task.done():
            return False
        if not client.task.cancelled() and (error := client.task.exception()) is not None:
            raise error
        return True

    def _open(self) -> list[Try]:
        calls = {client.call.id for client in self._clients if not client.task.done()}
        return [attempt for (call, _), attempt in self.truth.tries.items()
                if call in calls and attempt.state == "open"]  # fmt: skip

    def _some(self, most: int) -> list[Try]:
        found = self._open()
        return self.rng.sample(found, min(len(found), self.rng.randrange(1, most + 1)))

    def _act(self) -> Act:
        rng = self.rng
        usage = Usage(input=rng.randrange(1, 80), output=rng.choice([0, rng.randrange(30), rng.randrange(30), 200]))
        return Act(rng.random() < 0.9, rng.randrange(1, 5), rng.choice(ENDS), usage, rng.random() < 0.2)

    def _rows(self) -> Sequence[Any]:
        with self._engine.connect() as db:
            return db.execute(sa.select(tables.ledger)).all()

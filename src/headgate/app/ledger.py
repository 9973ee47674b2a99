"""The ledger put together: the log, what the process before left in it, the way to SQL and on to brokers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from headgate.app.config import Config
from headgate.app.home import Home
from headgate.app.pathway import Pathway, settle_lost
from headgate.app.yamlfile import ConfigError
from headgate.core.bus import PUBLISH_SECONDS
from headgate.core.clock import Clock
from headgate.core.limiter import Limiter
from headgate.ledger.events import BudgetAlert, budget_event
from headgate.ledger.journal import Journal
from headgate.ledger.outbox import Outbox, Publisher, Sink
from headgate.ledger.recovery import lost, recover
from headgate.ledger.shipper import Shipper
from headgate.ledger.store import Store
from headgate.pipeline.alerts import Alert
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics

Work = tuple[Coroutine[Any, Any, None], str]
"""What runs as long as the server, and its name."""
SHIP_SECONDS = 10.0
"""How long the last receipts may take to reach SQL at shutdown; what does not is shipped at the next start."""


@dataclass(frozen=True)
class Kit:
    """What parts are handed."""

    clock: Clock
    rng: Random
    log: Log
    metrics: Metrics


@dataclass(frozen=True)
class Books:
    """The ledger's parts, and what keeps them going."""

    journal: Journal
    store: Store
    shipper: Shipper
    publishers: Sequence[Publisher]
    clock: Clock

    def works(self, path: Pathway) -> list[Work]:
        """Where there are sinks, they are told of budgets too."""
        works: list[Work] = [(self.shipper.run(), "ledger shipper")]
        if not self.publishers:
            return works
        outbox = Outbox(self.store, self.clock)

        def tell(alert: Alert) -> None:
            budget = BudgetAlert(**msgspec.structs.asdict(alert))
            outbox.tell(budget_event(budget, self.store.source, self.clock.now()))

        path.alerts.tell = tell
        publishing = [(publisher.run(), f"events to {publisher.sink}") for publisher in self.publishers]
        return [*works, *publishing, (outbox.run(), "budget events")]

    def watch(self, metrics: Metrics) -> None:
        """Gauges."""

        def each(read: Callable[[Publisher], float]) -> Callable[[], dict[str, float]]:
            return lambda: {publisher.sink: read(publisher) for publisher in self.publishers}

        metrics.watch(names.LEDGER_UNSHIPPED, "Bytes of receipts not yet in SQL.", self.shipper.unshipped)
        metrics.watch(names.LEDGER_LOST, "Receipts given up while the disk took none.", lambda: self.journal.lost)
        waiting = "Events that a sink has not taken yet."
        metrics.watch_each(names.EVENTS_WAITING, waiting, "sink", each(lambda publisher: publisher.waiting))
        metrics.watch_each(names.EVENTS_AGE, "Age of the oldest of them.", "sink", each(lambda p: p.age_s()))


@asynccontextmanager
async def open_books(
    config: Config, home: Home, store: Store, sinks: Sequence[Sink], limiter: Limiter, kit: Kit
) -> AsyncIterator[Books]:
    """At the end ships what is left, and publishes that. Raises `ConfigError` where the log cannot be written."""
    instance = home.instance()
    async with AsyncExitStack() as stack:
        publishers = []
        for sink in sinks:
            stack.push_async_callback(sink.bus.aclose)
            publisher = Publisher(sink, store, instance, kit.clock, kit.rng, kit.log, kit.metrics)
            stack.push_async_callback(publisher.finish, PUBLISH_SECONDS)
            publishers.append(publisher)
        journal = _open_journal(home.ledger, config)
        stack.callback(journal.close)
        found = await asyncio.to_thread(recover, journal)
        settle_lost(limiter, found)
        for opening in found:
            kit.metrics.attempt(lost(opening))
        if found:
            kit.log.event(names.LEDGER_RECOVERED, "warning", attempts=len(found))
        shipper = Shipper(journal, store, instance, kit.clock, kit.log)
        stack.push_async_callback(shipper.finish, SHIP_SECONDS)
        yield Books(journal, store, shipper, publishers, kit.clock)


def _open_journal(folder: Path, config: Config) -> Journal:
    try:
        return Journal(folder, settings=config.ledger)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the usage ledger cannot be written: {error.strerror}. Free some space, or mend its permissions."
        ) from error

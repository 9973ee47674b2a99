"""What commands may do with the ledger beside a running server: usage, invoices, comparisons with providers.

They see what is in SQL. A running server ships what its journal holds several times a second.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from headgate.app.build import open_database, price_table
from headgate.app.config import Config, Environment
from headgate.app.home import make_folder
from headgate.core.clock import SystemClock
from headgate.core.ids import Ids
from headgate.ledger.accounts import store as accounts_store
from headgate.ledger.accounts.questions import Accounts
from headgate.ledger.billing import store as billing_store
from headgate.ledger.billing.auditor import Auditor
from headgate.ledger.billing.cashier import Cashier

SOURCE = "/headgate/reconcile"
"""Who tells brokers of corrections."""


@asynccontextmanager
async def open_accounts(config: Config, environment: Environment) -> AsyncIterator[Accounts]:
    make_folder(environment.home)
    sql = await open_database(config, environment.home)
    try:
        yield Accounts(accounts_store.Store(sql), _nothing_to_ship)
    finally:
        await sql.aclose()


@asynccontextmanager
async def open_cashier(config: Config, environment: Environment) -> AsyncIterator[Cashier]:
    async with _billing(config, environment) as store:
        prices = price_table(config)
        yield Cashier(store, lambda: prices, _nothing_to_ship, SystemClock())


@asynccontextmanager
async def open_auditor(config: Config, environment: Environment) -> AsyncIterator[Auditor]:
    async with _billing(config, environment) as store:
        prices, clock = price_table(config), SystemClock()
        yield Auditor(store, lambda: prices, _nothing_to_ship, clock, Ids(clock, random.SystemRandom()))


@asynccontextmanager
async def _billing(config: Config, environment: Environment) -> AsyncIterator[billing_store.Store]:
    make_folder(environment.home)
    sql = await open_database(config, environment.home)
    try:
        yield billing_store.Store(sql, [sink.name for sink in config.events], SOURCE)
    finally:
        await sql.aclose()


async def _nothing_to_ship() -> None:
    """The journals are the servers'."""

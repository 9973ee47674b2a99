"""Draws, issues and lists invoices."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, Conflict
from headgate.ledger.billing.invoices import Invoice, draw, month_span, seal
from headgate.ledger.billing.store import Store
from headgate.ledger.prices import PriceTable


class Invoices(Protocol):
    """`Cashier`, as others see it."""

    async def get(self, tenant: str, month: str) -> Invoice: ...

    async def issue(self, tenant: str, month: str) -> Invoice: ...

    async def issued(self, tenant: str | None) -> list[Invoice]: ...


class Cashier:
    """`prices` gives the book of the moment; `flush` ships what this process's journal still holds."""

    def __init__(
        self, store: Store, prices: Callable[[], PriceTable], flush: Callable[[], Awaitable[None]], clock: Clock
    ) -> None:
        self._store = store
        self._prices = prices
        self._flush = flush
        self._clock = clock

    async def get(self, tenant: str, month: str) -> Invoice:
        """The month's invoice as it was issued, else a draft up to now. Raises `BadCall` for what is no month."""
        month_span(month)
        await self._flush()
        prices, now = self._prices(), self._clock.now()
        return await self._store.draft(
            tenant, month, lambda sums, adjustments: draw(tenant, month, sums, prices, adjustments, now)
        )

    async def issue(self, tenant: str, month: str) -> Invoice:
        """Issues the invoice of a month that is over. Raises `BadCall` where it is not, `Conflict` where it has one."""
        _, end = month_span(month)
        prices, now = self._prices(), self._clock.now()
        if now < end:
            raise BadCall(
                f"{month} is not over yet (UTC); an issued invoice never changes. Look at its draft until then.",
                param="month",
                code="month_not_over",
            )
        await self._flush()
        issued = await self._store.issue(
            tenant, month, lambda sums, adjustments: draw(tenant, month, sums, prices, adjustments, now), seal
        )
        if issued is None:
            raise Conflict(
                f"'{tenant[:100]}' has an invoice for {month}. Look at it with GET /admin/invoices; what has "
                "changed since is an adjustment on the next one.",
                code="invoice_exists",
            )
        return issued

    async def issued(self, tenant: str | None) -> list[Invoice]:
        """The newest first."""
        return await self._store.issued(tenant)

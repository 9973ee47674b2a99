"""Invoices for a server made of core types."""

from headgate.ledger.billing.invoices import Invoice, draw, seal
from headgate.ledger.prices import PriceBook, PriceTable


class Invoices:
    """Every month is as good as empty."""

    def __init__(self) -> None:
        self.book: list[Invoice] = []

    async def get(self, tenant: str, month: str) -> Invoice:
        return draw(tenant, month, [], PriceTable(PriceBook("v")), [], 0.0)

    async def issue(self, tenant: str, month: str) -> Invoice:
        issued = seal(await self.get(tenant, month), f"HG-{len(self.book) + 1:06d}", None)
        self.book.append(issued)
        return issued

    async def issued(self, tenant: str | None) -> list[Invoice]:
        return [each for each in self.book if tenant in {None, each.tenant}]

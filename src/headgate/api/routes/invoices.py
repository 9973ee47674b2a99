"""`/admin/invoices` and `/v1/organization/projects/{id}/invoices/{month}`: a tenant's month as an invoice."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import read_body
from headgate.api.routes.usage import bad
from headgate.core.errors import BadCall
from headgate.core.reply import Header
from headgate.ledger.billing.invoices import Invoice
from headgate.ledger.billing.text import invoice_csv, invoice_text

_CSV: Header = (b"content-type", b"text/csv; charset=utf-8; header=present")
_TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")


class InvoiceOrder(Struct, frozen=True, forbid_unknown_fields=True):
    """Which invoice to issue."""

    tenant: str
    month: str
    """Such as `2026-10`, in UTC."""


class InvoiceList(Struct, frozen=True, kw_only=True):
    """The newest first, 1,000 at most."""

    object: Literal["list"] = "list"
    data: list[Invoice]


_order = msgspec.json.Decoder(InvoiceOrder)


async def _list(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(("tenant", "month", "format"))
    tenant = fields["tenant"][-1] if "tenant" in fields else None
    if "month" not in fields:
        await exchange.send_json(InvoiceList(data=await exchange.services.invoices.issued(tenant)))
        return
    if tenant is None:
        raise BadCall("Missing required parameter: 'tenant'.", param="tenant", code="missing_required_parameter")
    await _send(exchange, fields, tenant, fields["month"][-1])


async def _get(exchange: Exchange) -> None:
    exchange.principal("admin")
    await _send(exchange, exchange.query(("format",)), *exchange.path_ids)


async def _send(exchange: Exchange, fields: dict[str, list[str]], tenant: str, month: str) -> None:
    form = fields.get("format", ["json"])[-1]
    if form not in {"json", "csv", "text"}:
        raise bad("format", "'format' is one of json, csv, text.")
    invoice = await exchange.services.invoices.get(tenant, month)
    if form == "csv":
        await exchange.send(invoice_csv(invoice), 200, (_CSV,))
    elif form == "text":
        await exchange.send(invoice_text(invoice).encode("utf-8", "replace"), 200, (_TEXT,))
    else:
        await exchange.send_json(invoice)


async def _issue(exchange: Exchange) -> None:
    exchange.principal("admin")
    order = await read_body(exchange, _order)
    await exchange.send_json(await exchange.services.invoices.issue(order.tenant, order.month))


ROUTES = (
    Route(
        method="GET",
        path="/admin/invoices",
        endpoint=_list,
        scope="admin",
        summary="The issued invoices; with tenant and month, that one, or its draft.",
        gives=InvoiceList,
        query=("tenant", "month", "format"),
    ),
    Route(
        method="POST",
        path="/admin/invoices",
        endpoint=_issue,
        scope="admin",
        summary="Issue the invoice of a month that is over, for good.",
        takes=InvoiceOrder,
        gives=Invoice,
    ),
    Route(
        method="GET",
        path="/v1/organization/projects/{id}/invoices/{month}",
        endpoint=_get,
        scope="admin",
        summary="A project's invoice for a month as it was issued, or its draft.",
        gives=Invoice,
        query=("format",),
    ),
)

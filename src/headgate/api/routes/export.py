"""`GET /admin/ledger/export`: entries or sums as CSV or JSON lines, however many, a page in memory at a time."""

from collections.abc import AsyncIterator
from typing import get_args

import msgspec

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.usage import SPAN, bad, read_groups, read_span
from headgate.core.errors import HeadgateError
from headgate.core.reply import Header
from headgate.ledger.accounts.export import Format, csv_line, export_entries, export_sums, json_line

FIELDS = ("format", "of", "group_by", *SPAN)
_TYPES: dict[Format, Header] = {
    "csv": (b"content-type", b"text/csv; charset=utf-8; header=present"),
    "json": (b"content-type", b"application/jsonl"),
}


def _one_of(fields: dict[str, list[str]], name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name, [known[0]])[-1]
    if value not in known:
        raise bad(name, f"'{name}' is one of {', '.join(known)}.")
    return value


async def _export(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(FIELDS)
    form: Format = "json" if _one_of(fields, "format", get_args(Format)) == "json" else "csv"
    of = _one_of(fields, "of", ("entries", "sums"))
    span = read_span(fields, exchange.services.clock.now())
    query = msgspec.structs.replace(span, group_by=read_groups(fields))
    if query.group_by and of == "entries":
        raise bad("group_by", "'group_by' goes with of=sums.")
    accounts = exchange.services.accounts
    pieces = export_entries(accounts, query, form) if of == "entries" else export_sums(accounts, query, form)
    name = f'attachment; filename="{of}.{"csv" if form == "csv" else "jsonl"}"'.encode()
    exchange.sink.start(200, exchange.headers(_TYPES[form], (b"content-disposition", name)))
    await _write(exchange, pieces, form)


async def _write(exchange: Exchange, pieces: AsyncIterator[bytes], form: Format) -> None:
    """An export that is cut says so in its last line: what is missing must not pass for what there was."""
    sink = exchange.sink
    try:
        async for piece in pieces:
            await sink.write(piece)
    except HeadgateError as error:
        if not sink.begun:
            raise
        cut = {"error": f"The export was cut: {error.message}"}
        await sink.end(json_line(dict(cut)) if form == "json" else csv_line(("error", cut["error"])))
        return
    await sink.end()


ROUTES = (
    Route(
        method="GET",
        path="/admin/ledger/export",
        endpoint=_export,
        scope="admin",
        summary="The ledger's entries, or sums of them, as CSV or JSON lines.",
        query=FIELDS,
    ),
)

"""`headgate usage`: what was used and what it cost, as a table or as a file. Works beside a running server."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from headgate.app.accounting import open_accounts
from headgate.app.config import find_file, load, read_environment
from headgate.cli.common import Commands, add, place_options, table
from headgate.core.errors import BadCall
from headgate.ledger.accounts.export import export_entries, export_sums
from headgate.ledger.accounts.questions import GROUPS, TAG, WIDTHS, Filter, UsageQuery, UsageRow, check_field
from headgate.ledger.billing.invoices import dollars

DEFAULT_DAYS = 30


def add_parser(commands: Commands) -> None:
    group = add(commands, "usage", "show and export what was used and what it cost", "headgate usage show --by tenant")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = add(actions, "show", "sums as a table", "headgate usage show --by tenant,model --from 2026-11-01")
    export = add(
        actions,
        "export",
        "entries, or sums with --by, as CSV or JSON lines",
        "headgate usage export --from 2026-11-01 --to 2026-12-01 > november.csv",
    )
    for command, run in ((show, _show), (export, _export)):
        command.add_argument("--by", default="", metavar="FIELDS", help=f"sum by {', '.join(GROUPS)}, tag:NAME")
        command.add_argument("--from", dest="start", metavar="DAY", help="from this day on (default: 30 days ago)")
        command.add_argument("--to", dest="end", metavar="DAY", help="before this day (default: up to now)")
        for field in GROUPS:
            if field not in WIDTHS:
                command.add_argument(f"--{field}", action="append", help=f"only this {field}; may be repeated")
        command.add_argument("--tag", action="append", metavar="NAME:VALUE", help="only with this tag; may be repeated")
        place_options(command)
        command.set_defaults(run=lambda options, run=run: asyncio.run(run(options)))
    export.add_argument("--format", choices=["csv", "json"], default="csv")
    export.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


async def _show(options: argparse.Namespace) -> int:
    query = _query(options)
    async with open_accounts(load(find_file(options.config)), read_environment(options.home)) as accounts:
        rows = await accounts.usage(query)
    head = [field.upper() for field in query.group_by]
    head += ["REQUESTS", "INPUT", "OUTPUT", "COST", "UNPRICED", "ESTIMATED"]
    print(table(head, [_cells(row) for row in rows]))
    return 0


async def _export(options: argparse.Namespace) -> int:
    query = _query(options)
    with _output(options.output) as file:
        async with open_accounts(load(find_file(options.config)), read_environment(options.home)) as accounts:
            async for piece in (export_sums if query.group_by else export_entries)(accounts, query, options.format):
                file.write(piece)
            file.flush()
    return 0


@contextmanager
def _output(path: str | None) -> Iterator[BinaryIO]:
    """Raises `BadCall` where it cannot be written."""
    try:
        if path is None:
            yield sys.stdout.buffer
        else:
            with Path(path).open("wb") as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadCall(f"{path or 'standard output'}: cannot be written: {error.strerror}.") from error


def _query(options: argparse.Namespace) -> UsageQuery:
    """Raises `BadCall` naming the option."""
    now = datetime.now(UTC).timestamp()  # noqa: TID251 the edge
    end = _day("--to", options.end) if options.end else now
    start = _day("--from", options.start) if options.start else end - DEFAULT_DAYS * WIDTHS["day"]
    if start >= end:
        raise BadCall("--from must lie before --to.")
    found = [(field, getattr(options, field)) for field in GROUPS if field not in WIDTHS]
    filters = [Filter(field, tuple(values)) for field, values in found if values]
    for text in options.tag or ():
        name, sign, value = text.partition(":")
        if not sign:
            raise BadCall(f"--tag {text}: write NAME:VALUE.")
        filters.append(Filter(_field("--tag", TAG + name, times=False), (value,)))
    groups = tuple(_field("--by", field, times=True) for field in options.by.split(",") if field)
    return UsageQuery(start, end, groups, tuple(filters))


def _field(option: str, field: str, *, times: bool) -> str:
    try:
        return check_field(field, times=times)
    except ValueError as error:
        raise BadCall(f"{option}: {error}.") from None


def _day(option: str, text: str) -> float:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise BadCall(f"{option} {text}: write a day as 2026-11-21 (UTC).") from None


def _cells(row: UsageRow) -> list[str]:
    cost = "-" if row.cost_nanos is None else "$" + dollars(row.cost_nanos)
    counts = [f"{row.requests:,}", f"{row.input:,}", f"{row.output:,}", cost, f"{row.unpriced:,}", f"{row.estimated:,}"]
    return [*(value or "-" for value in row.group.values()), *counts]

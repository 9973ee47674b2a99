"""`headgate invoices`: a tenant's month as an invoice, issued or as it stands. Works beside a running server."""

import argparse
import asyncio
import sys

import msgspec

from headgate.app.accounting import open_cashier
from headgate.app.config import find_file, load, read_environment
from headgate.cli.common import Commands, add, place_options, table
from headgate.core.errors import BadCall
from headgate.ledger.billing.invoices import Invoice, dollars
from headgate.ledger.billing.text import invoice_csv, invoice_text


def add_parser(commands: Commands) -> None:
    group = add(
        commands, "invoices", "show, issue and list invoices", "headgate invoices --tenant acme --month 2026-11"
    )
    group.add_argument("--tenant", help="whose (a project's id)")
    group.add_argument("--month", help="such as 2026-11, in UTC")
    _forms(group)
    group.set_defaults(run=lambda options: asyncio.run(_show(options)))
    actions = group.add_subparsers(dest="action", metavar="ACTION")
    issue = add(
        actions,
        "issue",
        "issue the invoice of a month that is over, for good",
        "headgate invoices issue --tenant acme --month 2026-10",
    )
    issue.add_argument("--tenant", required=True, help="whose (a project's id)")
    issue.add_argument("--month", required=True, help="such as 2026-10, in UTC")
    _forms(issue)
    issue.set_defaults(run=lambda options: asyncio.run(_issue(options)))
    listing = add(actions, "list", "list the issued invoices, newest first", "headgate invoices list")
    listing.add_argument("--tenant", help="only this one's")
    listing.add_argument("--json", action="store_true", help="print JSON")
    place_options(listing)
    listing.set_defaults(run=lambda options: asyncio.run(_list(options)))


def _forms(command: argparse.ArgumentParser) -> None:
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON")
    forms.add_argument("--csv", action="store_true", help="print CSV")
    place_options(command)


async def _show(options: argparse.Namespace) -> int:
    if not options.tenant or not options.month:
        raise BadCall("Say whose invoice and of which month: headgate invoices --tenant acme --month 2026-11")
    async with open_cashier(load(find_file(options.config)), read_environment(options.home)) as cashier:
        _print(await cashier.get(options.tenant, options.month), options)
    return 0


async def _issue(options: argparse.Namespace) -> int:
    async with open_cashier(load(find_file(options.config)), read_environment(options.home)) as cashier:
        _print(await cashier.issue(options.tenant, options.month), options)
    return 0


async def _list(options: argparse.Namespace) -> int:
    async with open_cashier(load(find_file(options.config)), read_environment(options.home)) as cashier:
        found = await cashier.issued(options.tenant)
    if options.json:
        print(msgspec.json.encode(found).decode())
    elif not found:
        print("No invoice was issued yet. Issue one: headgate invoices issue --tenant acme --month 2026-10")
    else:
        rows = [[each.number or "", each.tenant, each.month, "$" + dollars(each.total_nanos)] for each in found]
        print(table(["NUMBER", "TENANT", "MONTH", "TOTAL"], rows))
    return 0


def _print(invoice: Invoice, options: argparse.Namespace) -> None:
    if options.json:
        print(msgspec.json.encode(invoice).decode())
    elif options.csv:
        sys.stdout.buffer.write(invoice_csv(invoice))
    else:
        print(invoice_text(invoice), end="")

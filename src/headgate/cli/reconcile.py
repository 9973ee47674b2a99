"""`headgate reconcile`: our ledger against a provider's files: where they drift, and, told to, corrections."""

import argparse
import asyncio
from decimal import Decimal
from pathlib import Path

import msgspec

from headgate.app.accounting import open_auditor
from headgate.app.config import find_file, load, read_environment
from headgate.cli.common import Commands, add, place_options, table
from headgate.ledger.billing.auditor import PARSERS, Order, Report
from headgate.ledger.billing.corrections import KINDS
from headgate.ledger.billing.invoices import dollars
from headgate.ledger.billing.reconcile import Drift, by_model
from headgate.ledger.billing.text import printable

_NAMES = {"input": "input", "cached": "of it cached", "cache_write": "of it written", "output": "output"}


def add_parser(commands: Commands) -> None:
    command = add(
        commands,
        "reconcile",
        "compare the ledger with a provider's usage and cost files, and correct it",
        "headgate reconcile --provider openai --backend openai --file usage.json --file costs.json --apply",
    )
    command.add_argument("--provider", required=True, choices=sorted(PARSERS), help="whose format the files have")
    command.add_argument("--backend", required=True, metavar="NAME", help="the backend that calls went to")
    command.add_argument(
        "--file", required=True, action="append", type=Path, metavar="FILE", help="JSON or CSV; one of each kind"
    )
    command.add_argument("--project", metavar="ID", help="only rows of this project (workspace) of the provider's")
    command.add_argument("--api-key", metavar="ID", help="only rows of this API key of the provider's")
    command.add_argument("--assign", metavar="TENANT", help="who pays for models that nobody of ours has used that day")
    doing = command.add_mutually_exclusive_group()
    doing.add_argument("--dry-run", action="store_true", help="only compare (the default)")
    doing.add_argument("--apply", action="store_true", help="add the corrections to the ledger")
    command.add_argument("--json", action="store_true", help="print JSON")
    place_options(command)
    command.set_defaults(run=lambda options: asyncio.run(_reconcile(options)))


async def _reconcile(options: argparse.Namespace) -> int:
    order = Order(
        provider=options.provider,
        files=tuple(options.file),
        backend=options.backend,
        apply=options.apply,
        project=options.project,
        api_key=options.api_key,
        assign=options.assign,
    )
    config = load(find_file(options.config))
    async with open_auditor(config, read_environment(options.home)) as auditor:
        report = await auditor.reconcile(order)
    print(msgspec.json.encode(report).decode() if options.json else _text(report), end="\n" if options.json else "")
    return 0


def _text(report: Report) -> str:
    out = [f"{report.provider} against backend {report.backend}, {report.first_day} to {report.last_day} (UTC)", ""]
    rows = [row for drift in by_model(report.drifts) for row in _rows(drift)]
    if rows:
        out += [table(["MODEL", "WHAT", "OURS", "THEIRS", "DIFFERENCE", "%"], rows), ""]
    else:
        out += ["Neither side has used anything.", ""]
    out += [f"Note: {note}." for note in report.notes]
    for drift in report.unclaimed:
        billed = f"{drift.theirs.tokens:,} tokens, ${dollars(drift.theirs.nanos)}"
        out.append(
            f"Unclaimed: {printable(drift.model)} on {drift.day} ({billed}): nobody of ours used it. Say who pays with "
            "--assign TENANT, or find who else has the provider's key."
        )
    if report.applied:
        out.append(f"Added {report.corrections} corrections as {report.id}.")
    elif report.corrections:
        out.append(f"{report.corrections} corrections would make them equal. Add them with --apply.")
    else:
        out.append("Nothing to correct.")
    return "\n".join(out) + "\n"


def _rows(drift: Drift) -> list[list[str]]:
    """Requests, tokens by kind and money; what neither side has is left out."""
    counts = [("requests", drift.our_requests, drift.their_requests)]
    counts += [
        (_NAMES[kind], getattr(drift.ours, kind), getattr(drift.theirs, kind)) for kind in KINDS if kind in _NAMES
    ]
    said = [
        [name, f"{ours:,}", f"{theirs:,}", f"{theirs - ours:+,}", _percent(ours, theirs)]
        for name, ours, theirs in counts
        if ours or theirs
    ]
    ours, theirs = drift.ours.nanos, drift.theirs.nanos
    if drift.money:
        change = dollars(theirs - ours) if theirs < ours else "+" + dollars(theirs - ours)
        said.append(["money, $", dollars(ours), dollars(theirs), change, _percent(ours, theirs)])
    else:
        said.append(["money, $", dollars(ours), "unknown", "", ""])
    return [[drift.model if place == 0 else "", *cells] for place, cells in enumerate(said)]


def _percent(ours: int, theirs: int) -> str:
    if ours == theirs:
        return "0"
    return f"{Decimal(100 * (theirs - ours)) / abs(ours):+.2f}" if ours else "new"

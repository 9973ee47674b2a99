"""`headgate prices`: check a price book before it is used, and ask it what a model costs."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from headgate.cli.common import Commands, add
from headgate.core.errors import BadCall, NotFound
from headgate.ledger.prices import BUNDLED_BOOK, KINDS, PriceTable, read_book


def add_parser(commands: Commands) -> None:
    group = add(commands, "prices", "check price books", "headgate prices check mine.toml")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = add(
        actions,
        "check",
        "check a price book; with --model, say what that costs",
        "headgate prices check mine.toml --model gpt-4o --day 2026-11-21",
    )
    check.add_argument("file", nargs="?", type=Path, default=BUNDLED_BOOK, help="default: the bundled book")
    check.add_argument("--model", help="what this model costs")
    check.add_argument("--backend", default="", help="on this backend")
    check.add_argument("--day", help="on this day, such as 2026-11-21 (default: today, UTC)")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    try:
        book = read_book(options.file)
    except ValueError as error:
        raise BadCall(str(error)) from error
    if options.model is None:
        print(f"{options.file}: a good price book: version {book.version}, {len(book.price)} prices")
        return 0
    now = datetime.now(UTC)  # noqa: TID251 the edge
    try:
        day = datetime.strptime(options.day, "%Y-%m-%d").replace(tzinfo=UTC) if options.day else now
    except ValueError:
        raise BadCall(f"--day {options.day}: write a day as 2026-11-21.") from None
    price = PriceTable(book).find(options.backend, options.model, day.timestamp())
    if price is None:
        raise NotFound(
            f"{options.file}: no price for '{options.model}' on {day.date()}; calls would cost null. Add a [[price]] "
            "whose 'model' matches it."
        )
    print(f"{options.model}: the price of '{price.model}' from {price.effective} on, US dollars per million tokens")
    for kind in KINDS:
        print(f"  {kind:<12}{price.usd_per_million(kind):>10g}")
    return 0

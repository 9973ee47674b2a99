"""What several commands share: options with the same meaning everywhere, and tables."""

import argparse
from typing import TYPE_CHECKING

from headgate.ledger.billing.text import printable

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object


def add(commands: "Commands", name: str, help_text: str, example: str) -> argparse.ArgumentParser:
    """A command whose --help ends with an example."""
    return commands.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def place_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", metavar="FILE", help="settings file (default: headgate.yaml here, if there is one)"
    )
    command.add_argument("--home", metavar="DIR", help="state folder (default: $HEADGATE_HOME or ~/.headgate)")


def table(head: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell. Users, tags and models come from callers: none may move the cursor."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(line.rstrip() for line in lines)

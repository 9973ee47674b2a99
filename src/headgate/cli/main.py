"""The command line: `headgate COMMAND`. Each command lives in its own module and adds its own parser."""

import argparse
import sys

from headgate import __version__
from headgate.app.yamlfile import ConfigError
from headgate.cli import (
    audit,
    budgets,
    chaos,
    config,
    doctor,
    explain,
    invoices,
    keys,
    limits,
    models,
    prices,
    projects,
    reconcile,
    serve,
    switches,
    train,
    usage,
    users,
)
from headgate.core.errors import HeadgateError

_EXAMPLE = "example:\n  headgate serve            # a real model on http://127.0.0.1:4000, nothing to set up"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="headgate",
        description="The production layer for LLM applications.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"headgate {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tenancy = (projects, users, keys, limits, budgets, audit)
    books = (usage, explain, invoices, reconcile, prices)
    for module in (serve, *tenancy, switches, *books, config, models, doctor, train, chaos):
        module.add_parser(commands)
    return top


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 for success, 1 for failure, 2 for wrong usage."""
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(f"headgate: {error}", file=sys.stderr)
        return 2
    except HeadgateError as error:
        print(f"headgate: {error.message}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        return 130


if __name__ == "__main__":
    sys.exit(main())

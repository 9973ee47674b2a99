"""`headgate models`: what would be served here, and from where."""

import argparse
import asyncio

import msgspec

from headgate.app.config import find_file, load, read_environment
from headgate.app.offline import survey
from headgate.cli.common import Commands, add, place_options, table
from headgate.core.target import Route


def add_parser(commands: Commands) -> None:
    command = add(commands, "models", "list the models that would be served, and from where", "headgate models")
    place_options(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    routes = asyncio.run(survey(load(find_file(options.config)), read_environment(options.home)))
    if options.json:
        print(msgspec.json.encode(routes).decode())
    elif not routes:
        print("There are no models: name a backend in headgate.yaml, or set a provider's key. See headgate doctor.")
    else:
        print(table(["MODEL", "TARGETS", "FALLBACKS"], [_row(route) for route in routes]))
    return 0


def _row(route: Route) -> list[str]:
    return [
        route.name,
        ", ".join(f"{target.backend}:{target.model}" for target in route.targets),
        ", ".join(f"{target.backend}:{target.model}" for target in route.fallbacks) or "-",
    ]

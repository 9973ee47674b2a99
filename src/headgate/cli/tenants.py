"""What the commands about projects, users, keys, limits and budgets share: the database, whom they mean, times."""

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from headgate.app.config import find_file, load, read_environment
from headgate.app.offline import open_tenancy
from headgate.cli.common import place_options
from headgate.core.errors import BadCall, NotFound
from headgate.core.policy import TIME_MAX
from headgate.tenancy.policies import Owner
from headgate.tenancy.store import Page
from headgate.tenancy.tenancy import Tenancy

Run = Callable[[argparse.Namespace, Tenancy], Awaitable[int]]
LIST_MAX = 1_000
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def command(parser: argparse.ArgumentParser, run: Run) -> None:
    """Gives a command the options of place, `--json`, and its work."""
    place_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")

    def work(options: argparse.Namespace) -> int:
        async def whole() -> int:
            config = load(find_file(options.config))
            async with open_tenancy(config, read_environment(options.home)) as tenancy:
                return await run(options, tenancy)

        return asyncio.run(whole())

    parser.set_defaults(run=work)


def owner_options(parser: argparse.ArgumentParser) -> None:
    """Whose policy; `owner` reads them."""
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--project", metavar="ID", help="a project, by id or name")
    whose.add_argument("--user", metavar="ID", help="a user, by id or e-mail address")
    whose.add_argument("--key", metavar="ID", help="a key, by id")
    whose.add_argument("--organization", action="store_true", help="the whole organization")


async def owner(options: argparse.Namespace, tenancy: Tenancy) -> Owner:
    """Raises `BadCall` for a name that means nobody, or several."""
    if options.project is not None:
        return Owner("project", await project_id(tenancy, options.project))
    if options.user is not None:
        return Owner("user", await user_id(tenancy, options.user))
    if options.key is not None:
        key = await tenancy.keys.get(options.key)
        return Owner("key", key.id, key.tenant)
    return Owner("organization")


async def project_id(tenancy: Tenancy, text: str) -> str:
    """From an id, or from a name that only one project has."""
    try:
        return (await tenancy.projects.get(text)).id
    except NotFound:
        named = [project.id for project in await tenancy.projects.named(text)]
        if not named:
            raise
    if len(named) > 1:
        raise BadCall(f"Several projects are named '{text}'; give one's id: {', '.join(named)}.")
    return named[0]


async def user_id(tenancy: Tenancy, text: str) -> str:
    if "@" not in text:
        return (await tenancy.users.get(text)).id
    found = await tenancy.users.page(Page(limit=1), [text])
    if not found:
        raise BadCall(f"There is no user '{text}'. headgate users list shows them all.")
    return found[0].id


def later(text: str) -> float:
    """Unix seconds, so long from now: 12h, 30d."""
    match = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if match is None:
        raise BadCall(f"'{text}' is no time span. Write a number and s, m, h or d: 12h, 30d.")
    at = datetime.now(UTC).timestamp() + int(match[1]) * _UNITS[match[2]]  # noqa: TID251 the edge
    if at > TIME_MAX:
        raise BadCall(f"'{text}' from now lies beyond the year 9999; give a shorter time.")
    return at


def shown_time(at: float) -> str:
    """In UTC; nothing for what has been there since before anyone counted, such as the project `default`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M") if at else "-"


def tell(options: argparse.Namespace, value: object, text: str) -> int:
    """Prints the value as JSON where that was asked for, else the text."""
    print(msgspec.json.encode(value).decode() if options.json else text)
    return 0

"""`headgate audit`: who changed what, and when."""

import argparse

import msgspec

from headgate.cli.common import Commands, add, table
from headgate.cli.tenants import LIST_MAX, command, project_id, shown_time, tell
from headgate.core.errors import BadCall
from headgate.tenancy.records import Entry
from headgate.tenancy.store import Page
from headgate.tenancy.tenancy import AuditFilter, Tenancy

DETAILS_MAX = 100
"""Characters of a change that a line for people shows; `--json` shows all."""


def add_parser(commands: Commands) -> None:
    group = add(commands, "audit", "show the log of every change", "headgate audit tail --project acme")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    tail = add(
        actions, "tail", "show the last changes, newest last", "headgate audit tail -n 50 --type project.created"
    )
    tail.add_argument("-n", type=int, default=20, metavar="N", help=f"how many (default: 20, at most {LIST_MAX})")
    tail.add_argument("--project", metavar="ID", help="only of this project")
    tail.add_argument("--type", action="append", metavar="TYPE", help="only of this type; may be repeated")
    tail.add_argument("--actor", action="append", metavar="ID", help="only by this key or user; may be repeated")
    command(tail, _tail)


async def _tail(options: argparse.Namespace, tenancy: Tenancy) -> int:
    if not 1 <= options.n <= LIST_MAX:
        raise BadCall(f"-n lies between 1 and {LIST_MAX}.")
    projects = (await project_id(tenancy, options.project),) if options.project else ()
    wanted = AuditFilter(types=tuple(options.type or ()), projects=projects, actors=tuple(options.actor or ()))
    entries = (await tenancy.audit.page(Page(limit=options.n), wanted))[: options.n][::-1]
    head = ["AT", "WHO", "WHAT", "PROJECT", "TARGET", "CHANGE"]
    return tell(options, entries, table(head, [_row(entry) for entry in entries]))


def _row(entry: Entry) -> list[str]:
    if entry.after is None:
        change = "was " + msgspec.json.encode(entry.before).decode()
    else:  # what it is now: null where something was taken away
        change = msgspec.json.encode({**dict.fromkeys(entry.before or ()), **entry.after}).decode()
    if len(change) > DETAILS_MAX:
        change = change[: DETAILS_MAX - 1] + "…"
    return [shown_time(entry.at), entry.actor, entry.type, entry.project or "-", entry.target, change]

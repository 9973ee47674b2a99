"""`headgate users`: add, list, change and remove users. Works with and without a running server."""

import argparse

from headgate.cli.common import Commands, add, table
from headgate.cli.tenants import LIST_MAX, command, project_id, shown_time, tell, user_id
from headgate.tenancy.records import CLI, ProjectRole, User
from headgate.tenancy.store import Page
from headgate.tenancy.tenancy import Tenancy


def add_parser(commands: Commands) -> None:
    group = add(commands, "users", "add, list, change and remove users", "headgate users create ada@example.com")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = add(
        actions, "create", "add a user and print the id", "headgate users create ada@example.com --project search"
    )
    create.add_argument("email")
    create.add_argument("--name", default="", help="as reports show it (default: the address's first part)")
    create.add_argument("--role", choices=["reader", "owner"], default="reader", help="in the organization")
    create.add_argument("--project", action="append", metavar="ID", help="make a member of; may be repeated")
    listing = add(actions, "list", "list the users, newest first", "headgate users list")
    update = add(
        actions, "update", "change a user's role or name", "headgate users update ada@example.com --role owner"
    )
    update.add_argument("user", help="id or e-mail address")
    update.add_argument("--role", choices=["reader", "owner"])
    update.add_argument("--name")
    remove = add(actions, "remove", "remove a user, whose keys stop working", "headgate users remove ada@example.com")
    remove.add_argument("user", help="id or e-mail address")
    for parser, run in ((create, _create), (listing, _list), (update, _update), (remove, _remove)):
        command(parser, run)


async def _create(options: argparse.Namespace, tenancy: Tenancy) -> int:
    member: ProjectRole = "member"
    projects = [(await project_id(tenancy, text), member) for text in options.project or ()]
    user = await tenancy.users.create(options.email, options.role, CLI, options.name, projects)
    return tell(options, user, f"{user.id}\n\nGive a key: headgate keys create --tenant PROJECT --user {user.id}")


async def _list(options: argparse.Namespace, tenancy: Tenancy) -> int:
    users = (await tenancy.users.page(Page(limit=LIST_MAX)))[:LIST_MAX]
    return tell(options, users, table(["ID", "EMAIL", "NAME", "ROLE", "ADDED"], [_row(user) for user in users]))


async def _update(options: argparse.Namespace, tenancy: Tenancy) -> int:
    user = await tenancy.users.update(await user_id(tenancy, options.user), CLI, options.role, options.name)
    return tell(options, user, f"{user.email} ({user.id}) is {user.name}, {user.role}.")


async def _remove(options: argparse.Namespace, tenancy: Tenancy) -> int:
    found = await user_id(tenancy, options.user)
    await tenancy.users.remove(found, CLI)
    return tell(options, {"id": found, "removed": True}, f"Removed {found}; the user's keys no longer work.")


def _row(user: User) -> list[str]:
    return [user.id, user.email, user.name, user.role, shown_time(user.added_at)]

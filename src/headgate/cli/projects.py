"""`headgate projects`: make, list, rename and archive projects. Works with and without a running server."""

import argparse

from headgate.cli.common import Commands, add, table
from headgate.cli.tenants import LIST_MAX, command, project_id, shown_time, tell
from headgate.tenancy.records import CLI, Project
from headgate.tenancy.store import Page
from headgate.tenancy.tenancy import Tenancy


def add_parser(commands: Commands) -> None:
    group = add(commands, "projects", "make, list, rename and archive projects", "headgate projects create search")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = add(actions, "create", "make a project; its id is its name", "headgate projects create search")
    create.add_argument("name")
    listing = add(actions, "list", "list the projects, newest first", "headgate projects list --archived")
    listing.add_argument("--archived", action="store_true", help="those that are archived too")
    rename = add(actions, "rename", "give a project another name", "headgate projects rename search 'web search'")
    rename.add_argument("project", help="its id or name")
    rename.add_argument("name", help="the new name")
    archive = add(actions, "archive", "archive a project: its keys stop working", "headgate projects archive search")
    archive.add_argument("project", help="its id or name")
    for parser, run in ((create, _create), (listing, _list), (rename, _rename), (archive, _archive)):
        command(parser, run)


async def _create(options: argparse.Namespace, tenancy: Tenancy) -> int:
    project = await tenancy.projects.create(options.name, CLI, project_id=options.name)
    return tell(options, project, f"{project.id}\n\nGive it a key: headgate keys create --tenant {project.id}")


async def _list(options: argparse.Namespace, tenancy: Tenancy) -> int:
    projects = (await tenancy.projects.page(Page(limit=LIST_MAX), options.archived))[:LIST_MAX]
    return tell(options, projects, table(["ID", "NAME", "CREATED", "STATE"], [_row(project) for project in projects]))


async def _rename(options: argparse.Namespace, tenancy: Tenancy) -> int:
    found = await project_id(tenancy, options.project)
    project = await tenancy.projects.rename(found, options.name, CLI)
    return tell(options, project, f"{project.id} is now named '{project.name}'.")


async def _archive(options: argparse.Namespace, tenancy: Tenancy) -> int:
    project = await tenancy.projects.archive(await project_id(tenancy, options.project), CLI)
    return tell(options, project, f"Archived {project.id}; its keys no longer work.")


def _row(project: Project) -> list[str]:
    state = "active" if project.archived_at is None else f"archived {shown_time(project.archived_at)}"
    return [project.id, project.name, shown_time(project.created_at), state]

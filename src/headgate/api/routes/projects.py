"""`/v1/organization/projects`: projects made, listed, renamed, archived."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_body, read_flag, read_page, whole
from headgate.tenancy import records

BASE = "/v1/organization/projects"


class Project(Struct, frozen=True, kw_only=True):
    """A project. Its id is the tenant that usage is counted for."""

    id: str
    object: Literal["organization.project"] = "organization.project"
    name: str
    created_at: int
    archived_at: int | None
    status: Literal["active", "archived"]


class ProjectName(Struct, frozen=True, forbid_unknown_fields=True):
    name: str


_name = msgspec.json.Decoder(ProjectName)


def _shown(project: records.Project) -> Project:
    return Project(
        id=project.id,
        name=project.name,
        created_at=int(project.created_at),
        archived_at=whole(project.archived_at),
        status="active" if project.archived_at is None else "archived",
    )


async def _create(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _name)
    await exchange.send_json(_shown(await exchange.services.tenancy.projects.create(asked.name, by)))


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    fields = exchange.query((*PAGING, "include_archived"))
    page = read_page(exchange, fields)
    found = await exchange.services.tenancy.projects.page(page, read_flag(fields, "include_archived"))
    shown = [_shown(project) for project in found]
    await exchange.send_json(listing(shown, [project.id for project in shown], page.limit))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_shown(await exchange.services.tenancy.projects.get(exchange.path_id)))


async def _rename(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _name)
    await exchange.send_json(_shown(await exchange.services.tenancy.projects.rename(exchange.path_id, asked.name, by)))


async def _archive(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.send_json(_shown(await exchange.services.tenancy.projects.archive(exchange.path_id, by)))


ROUTES = (
    Route(
        method="POST", path=BASE, endpoint=_create, scope="admin", summary="Make a project.",
        takes=ProjectName, gives=Project,
    ),
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="Projects, newest first.",
        gives=Listing[Project], query=(*PAGING, "include_archived"),
    ),
    Route(method="GET", path=BASE + "/{id}", endpoint=_get, scope="admin", summary="One project.", gives=Project),
    Route(
        method="POST", path=BASE + "/{id}", endpoint=_rename, scope="admin", summary="Rename a project.",
        takes=ProjectName, gives=Project,
    ),
    Route(
        method="POST", path=BASE + "/{id}/archive", endpoint=_archive, scope="admin",
        summary="Archive a project: its keys stop working.", gives=Project,
    ),
)  # fmt: skip

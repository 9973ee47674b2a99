"""`/v1/organization/projects/{id}/users`: who belongs to a project."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_body, read_page
from headgate.core.errors import BadCall
from headgate.tenancy.records import Member, ProjectRole, User

BASE = "/v1/organization/projects/{id}/users"


class ProjectUser(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.user"] = "organization.project.user"
    name: str
    email: str
    role: ProjectRole
    added_at: int


class NewProjectUser(Struct, frozen=True, forbid_unknown_fields=True):
    """A user of the organization, by id or by e-mail address."""

    role: ProjectRole
    user_id: str | None = None
    email: str | None = None


class ProjectUserChange(Struct, frozen=True, forbid_unknown_fields=True):
    role: ProjectRole


class DeletedProjectUser(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.user.deleted"] = "organization.project.user.deleted"
    deleted: bool = True


_new = msgspec.json.Decoder(NewProjectUser)
_change = msgspec.json.Decoder(ProjectUserChange)


def _shown(found: tuple[Member, User]) -> ProjectUser:
    member, user = found
    return ProjectUser(id=user.id, name=user.name, email=user.email, role=member.role, added_at=int(member.added_at))


async def _add(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _new)
    who = asked.user_id or asked.email
    if who is None or (asked.user_id and asked.email):
        raise BadCall("Name the user by 'user_id' or by 'email', one of them.", param="user_id", code="invalid_value")
    found = await exchange.services.tenancy.projects.set_member(exchange.path_id, who, asked.role, by)
    await exchange.send_json(_shown(found))


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    page = read_page(exchange, exchange.query(PAGING))
    found = await exchange.services.tenancy.projects.members(exchange.path_id, page)
    shown = [_shown(member) for member in found]
    await exchange.send_json(listing(shown, [user.id for user in shown], page.limit))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    project_id, user_id = exchange.path_ids
    await exchange.send_json(_shown(await exchange.services.tenancy.projects.member(project_id, user_id)))


async def _update(exchange: Exchange) -> None:
    by = admin(exchange)
    project_id, user_id = exchange.path_ids
    asked = await read_body(exchange, _change)
    await exchange.services.tenancy.projects.member(project_id, user_id)
    found = await exchange.services.tenancy.projects.set_member(project_id, user_id, asked.role, by)
    await exchange.send_json(_shown(found))


async def _remove(exchange: Exchange) -> None:
    by = admin(exchange)
    project_id, user_id = exchange.path_ids
    await exchange.services.tenancy.projects.remove_member(project_id, user_id, by)
    await exchange.send_json(DeletedProjectUser(id=user_id))


ROUTES = (
    Route(
        method="POST", path=BASE, endpoint=_add, scope="admin", summary="Add a user to a project.",
        takes=NewProjectUser, gives=ProjectUser,
    ),
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="A project's users.",
        gives=Listing[ProjectUser], query=PAGING,
    ),
    Route(
        method="GET", path=BASE + "/{user_id}", endpoint=_get, scope="admin", summary="One user of a project.",
        gives=ProjectUser,
    ),
    Route(
        method="POST", path=BASE + "/{user_id}", endpoint=_update, scope="admin",
        summary="Change a user's role in a project.", takes=ProjectUserChange, gives=ProjectUser,
    ),
    Route(
        method="DELETE", path=BASE + "/{user_id}", endpoint=_remove, scope="admin",
        summary="Take a user out of a project: the user's keys there stop working.", gives=DeletedProjectUser,
    ),
)  # fmt: skip

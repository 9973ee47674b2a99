"""`/v1/organization/users` and `/v1/organization/invites`: people.

No mail is sent: whoever is invited is a user at once, so every invitation is an accepted one. Its id is the user's,
under another prefix.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_body, read_page
from headgate.core.errors import Conflict
from headgate.tenancy import records
from headgate.tenancy.desk import missing
from headgate.tenancy.records import Member, OrganizationRole, ProjectRole
from headgate.tenancy.store import Page

BASE = "/v1/organization/users"
INVITES = "/v1/organization/invites"


class User(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.user"] = "organization.user"
    name: str
    email: str
    role: OrganizationRole
    added_at: int


class UserSpec(Struct, frozen=True, forbid_unknown_fields=True):
    email: str
    role: OrganizationRole = "reader"
    name: str = ""


class UserChange(Struct, frozen=True, forbid_unknown_fields=True):
    role: OrganizationRole | None = None
    name: str | None = None


class DeletedUser(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.user.deleted"] = "organization.user.deleted"
    deleted: bool = True


class InviteProject(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    role: ProjectRole


class InviteSpec(Struct, frozen=True, forbid_unknown_fields=True):
    email: str
    role: OrganizationRole
    projects: tuple[InviteProject, ...] = ()


class Invite(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.invite"] = "organization.invite"
    email: str
    role: OrganizationRole
    status: Literal["accepted"] = "accepted"
    created_at: int
    accepted_at: int
    expires_at: int | None = None
    projects: list[InviteProject]


_spec = msgspec.json.Decoder(UserSpec)
_change = msgspec.json.Decoder(UserChange)
_invite_spec = msgspec.json.Decoder(InviteSpec)


def _shown(user: records.User) -> User:
    return User(id=user.id, name=user.name, email=user.email, role=user.role, added_at=int(user.added_at))


async def _create(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _spec)
    user = await exchange.services.tenancy.users.create(asked.email, asked.role, by, asked.name)
    await exchange.send_json(_shown(user))


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    fields = exchange.query((*PAGING, "emails"))
    page = read_page(exchange, fields)
    shown = [_shown(user) for user in await exchange.services.tenancy.users.page(page, fields.get("emails", []))]
    await exchange.send_json(listing(shown, [user.id for user in shown], page.limit))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_shown(await exchange.services.tenancy.users.get(exchange.path_id)))


async def _update(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _change)
    user = await exchange.services.tenancy.users.update(exchange.path_id, by, asked.role, asked.name)
    await exchange.send_json(_shown(user))


async def _remove(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.services.tenancy.users.remove(exchange.path_id, by)
    await exchange.send_json(DeletedUser(id=exchange.path_id))


def _as_invite(user_id: str) -> str:
    return "invite_" + user_id.removeprefix("user_")


def _as_user(invite_id: str) -> str:
    return "user_" + invite_id.removeprefix("invite_")


def _invitation(user: records.User, members: list[Member]) -> Invite:
    return Invite(
        id=_as_invite(user.id),
        email=user.email,
        role=user.role,
        created_at=int(user.added_at),
        accepted_at=int(user.added_at),
        projects=[InviteProject(member.project, member.role) for member in members if member.user_id == user.id],
    )


async def _invite(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _invite_spec)
    users = exchange.services.tenancy.users
    projects = [(project.id, project.role) for project in asked.projects]
    user = await users.create(asked.email, asked.role, by, projects=projects)
    await exchange.send_json(_invitation(user, await users.memberships([user.id])))


async def _invites(exchange: Exchange) -> None:
    admin(exchange)
    asked = read_page(exchange, exchange.query(PAGING))
    users = exchange.services.tenancy.users
    page = Page(asked.limit, None if asked.after is None else _as_user(asked.after))
    found = await users.page(page)
    members = await users.memberships([user.id for user in found])
    shown = [_invitation(user, members) for user in found]
    await exchange.send_json(listing(shown, [invite.id for invite in shown], page.limit))


async def _invited(exchange: Exchange) -> records.User:
    if not exchange.path_id.startswith("invite_"):
        raise missing("invite", exchange.path_id)
    return await exchange.services.tenancy.users.get(_as_user(exchange.path_id))


async def _get_invite(exchange: Exchange) -> None:
    admin(exchange)
    user = await _invited(exchange)
    await exchange.send_json(_invitation(user, await exchange.services.tenancy.users.memberships([user.id])))


async def _delete_invite(exchange: Exchange) -> None:
    admin(exchange)
    user = await _invited(exchange)
    raise Conflict(f"This invitation is accepted and cannot be deleted; delete the user {user.id} instead.")


ROUTES = (
    Route(
        method="POST", path=BASE, endpoint=_create, scope="admin", summary="Add a user, who is there at once.",
        takes=UserSpec, gives=User,
    ),
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="Users, newest first.",
        gives=Listing[User], query=(*PAGING, "emails"),
    ),
    Route(method="GET", path=BASE + "/{id}", endpoint=_get, scope="admin", summary="One user.", gives=User),
    Route(
        method="POST", path=BASE + "/{id}", endpoint=_update, scope="admin", summary="Change a user's role or name.",
        takes=UserChange, gives=User,
    ),
    Route(
        method="DELETE", path=BASE + "/{id}", endpoint=_remove, scope="admin",
        summary="Remove a user: the user's keys stop working.", gives=DeletedUser,
    ),
    Route(
        method="POST", path=INVITES, endpoint=_invite, scope="admin", summary="Invite a user, accepted at once.",
        takes=InviteSpec, gives=Invite,
    ),
    Route(
        method="GET", path=INVITES, endpoint=_invites, scope="admin", summary="Invitations, newest first.",
        gives=Listing[Invite], query=PAGING,
    ),
    Route(
        method="GET", path=INVITES + "/{id}", endpoint=_get_invite, scope="admin", summary="One invitation.",
        gives=Invite,
    ),
    Route(
        method="DELETE", path=INVITES + "/{id}", endpoint=_delete_invite, scope="admin",
        summary="Refused: every invitation is accepted at once.",
    ),
)  # fmt: skip

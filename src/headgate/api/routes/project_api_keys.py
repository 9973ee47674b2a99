"""`/v1/organization/projects/{id}/api_keys`: the keys of a project, shown and revoked. `/admin/keys` makes them."""

from typing import Literal

from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_page, whole
from headgate.tenancy import records
from headgate.tenancy.keyring import KeyRecord
from headgate.tenancy.keys import no_key
from headgate.tenancy.records import Account

BASE = "/v1/organization/projects/{id}/api_keys"


class KeyOwnerUser(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.user"] = "organization.project.user"
    name: str
    email: str
    role: str
    created_at: int


class KeyOwnerAccount(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.service_account"] = "organization.project.service_account"
    name: str
    role: str
    created_at: int


class KeyOwner(Struct, frozen=True, kw_only=True):
    """Without a type where the key is the project's as such."""

    type: Literal["user", "service_account"] | None = None
    user: KeyOwnerUser | None = None
    service_account: KeyOwnerAccount | None = None


class ProjectKey(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    name: str
    redacted_value: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None = None
    owner: KeyOwner
    owner_project_access: Literal["active", "inactive"]


class DeletedProjectKey(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.api_key.deleted"] = "organization.project.api_key.deleted"
    deleted: bool = True


async def _shown(exchange: Exchange, keys: list[KeyRecord]) -> list[ProjectKey]:
    tenancy = exchange.services.tenancy
    users, accounts = await tenancy.owners(keys)
    belong = {(member.project, member.user_id) for member in await tenancy.users.memberships(tuple(users))}
    return [
        ProjectKey(
            id=key.id,
            name=key.name,
            redacted_value=redacted(key),
            created_at=int(key.created_at),
            expires_at=whole(key.expires_at),
            owner=_owner(users.get(key.user_id or ""), accounts.get(key.account_id or "")),
            owner_project_access="active" if key.user_id is None or (key.tenant, key.user_id) in belong else "inactive",
        )
        for key in keys
    ]


def redacted(key: KeyRecord) -> str:
    return key.prefix + "…"


def _owner(user: records.User | None, account: Account | None) -> KeyOwner:
    if user is not None:
        shown = KeyOwnerUser(
            id=user.id, name=user.name, email=user.email, role=user.role, created_at=int(user.added_at)
        )
        return KeyOwner(type="user", user=shown)
    if account is not None:
        told = KeyOwnerAccount(id=account.id, name=account.name, role=account.role, created_at=int(account.created_at))
        return KeyOwner(type="service_account", service_account=told)
    return KeyOwner()


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    page = read_page(exchange, exchange.query(PAGING))
    found = await exchange.services.tenancy.project_keys(exchange.path_id, page)
    shown = await _shown(exchange, found)
    await exchange.send_json(listing(shown, [key.id for key in shown], page.limit))


async def _key(exchange: Exchange) -> KeyRecord:
    """The project's key that the path names, if it is not revoked."""
    project_id, key_id = exchange.path_ids
    key = await exchange.services.keys.get(key_id)
    if key.tenant != project_id or key.revoked_at is not None:
        raise no_key(key_id)
    return key


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    (shown,) = await _shown(exchange, [await _key(exchange)])
    await exchange.send_json(shown)


async def _revoke(exchange: Exchange) -> None:
    by = admin(exchange)
    key = await _key(exchange)
    await exchange.services.keys.revoke(key.id, by)
    await exchange.send_json(DeletedProjectKey(id=key.id))


ROUTES = (
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="A project's keys.",
        gives=Listing[ProjectKey], query=PAGING,
    ),
    Route(
        method="GET", path=BASE + "/{key_id}", endpoint=_get, scope="admin", summary="One key of a project.",
        gives=ProjectKey,
    ),
    Route(
        method="DELETE", path=BASE + "/{key_id}", endpoint=_revoke, scope="admin",
        summary="Revoke a project's key, at once.", gives=DeletedProjectKey,
    ),
)  # fmt: skip

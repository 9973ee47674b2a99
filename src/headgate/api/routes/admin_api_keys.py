"""`/v1/organization/admin_api_keys`: keys that administrate."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, expiry, listing, read_body, read_page, whole
from headgate.api.routes.project_api_keys import redacted
from headgate.tenancy.keyring import KeyRecord, KeySpec
from headgate.tenancy.keys import no_key

BASE = "/v1/organization/admin_api_keys"
FIELDS = (*PAGING, "order")


class AdminKeyOwner(Struct, frozen=True, kw_only=True):
    type: Literal["user"] = "user"
    object: Literal["organization.user"] = "organization.user"
    id: str | None
    name: str | None = None
    role: Literal["owner"] = "owner"


class AdminKey(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.admin_api_key"] = "organization.admin_api_key"
    name: str
    redacted_value: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None = None
    owner: AdminKeyOwner


class NewAdminKey(AdminKey, frozen=True, kw_only=True):
    """The only time the key itself, `value`, is shown."""

    value: str


class AdminKeySpec(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    expires_in_seconds: int | None = None


class DeletedAdminKey(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.admin_api_key.deleted"] = "organization.admin_api_key.deleted"
    deleted: bool = True


_spec = msgspec.json.Decoder(AdminKeySpec)


def _shown(key: KeyRecord) -> AdminKey:
    return AdminKey(
        id=key.id,
        name=key.name,
        redacted_value=redacted(key),
        created_at=int(key.created_at),
        expires_at=whole(key.expires_at),
        owner=AdminKeyOwner(id=key.user_id),
    )


async def _create(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _spec)
    spec = KeySpec(name=asked.name, scopes=("admin",), expires_at=expiry(exchange, asked.expires_in_seconds))
    created = await exchange.services.keys.create(spec, by=by)
    fields = msgspec.structs.asdict(_shown(created.record))
    fields.pop("object")
    await exchange.send_json(NewAdminKey(**fields, value=created.key))


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    page = read_page(exchange, exchange.query(FIELDS), order="asc")
    shown = [_shown(key) for key in await exchange.services.tenancy.admin_keys(page)]
    await exchange.send_json(listing(shown, [key.id for key in shown], page.limit))


async def _key(exchange: Exchange) -> KeyRecord:
    key = await exchange.services.keys.get(exchange.path_id)
    if "admin" not in key.scopes or key.revoked_at is not None:
        raise no_key(exchange.path_id)
    return key


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_shown(await _key(exchange)))


async def _revoke(exchange: Exchange) -> None:
    by = admin(exchange)
    key = await _key(exchange)
    await exchange.services.keys.revoke(key.id, by)
    await exchange.send_json(DeletedAdminKey(id=key.id))


ROUTES = (
    Route(
        method="POST", path=BASE, endpoint=_create, scope="admin", summary="Make a key that administrates.",
        takes=AdminKeySpec, gives=NewAdminKey,
    ),
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="Every key that may administrate.",
        gives=Listing[AdminKey], query=FIELDS,
    ),
    Route(method="GET", path=BASE + "/{id}", endpoint=_get, scope="admin", summary="One such key.", gives=AdminKey),
    Route(
        method="DELETE", path=BASE + "/{id}", endpoint=_revoke, scope="admin", summary="Revoke such a key, at once.",
        gives=DeletedAdminKey,
    ),
)  # fmt: skip

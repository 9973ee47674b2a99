"""`/admin/keys`: make, list, show and revoke API keys."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import admin, read_body
from headgate.core.policy import Policy
from headgate.core.principal import KeyLimits, Scope
from headgate.tenancy.keyring import KeyRecord, KeySpec, Kind


class Key(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A key as administrators see it. Times are Unix seconds."""

    id: str
    object: Literal["headgate.key"] = "headgate.key"
    prefix: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] | None
    limits: KeyLimits
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    kind: Kind
    user_id: str | None
    account_id: str | None
    policy: Policy | None


class NewKey(Key, frozen=True, kw_only=True):
    """A key just made: the only time that `key` itself is shown."""

    key: str


class KeyList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Key]


class DeletedKey(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["headgate.key.deleted"] = "headgate.key.deleted"
    deleted: bool = True


_spec = msgspec.json.Decoder(KeySpec)


def _key(record: KeyRecord) -> Key:
    return msgspec.convert(record, Key, from_attributes=True)


async def _create(exchange: Exchange) -> None:
    by = admin(exchange)
    created = await exchange.services.keys.create(await read_body(exchange, _spec), by=by)
    fields = msgspec.structs.asdict(_key(created.record))
    fields.pop("object")
    await exchange.send_json(NewKey(**fields, key=created.key))


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    records = await exchange.services.keys.list()
    await exchange.send_json(KeyList(data=[_key(record) for record in records]))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_key(await exchange.services.keys.get(exchange.path_id)))


async def _revoke(exchange: Exchange) -> None:
    by = admin(exchange)
    record = await exchange.services.keys.revoke(exchange.path_id, by)
    await exchange.send_json(DeletedKey(id=record.id))


ROUTES = (
    Route(
        method="POST",
        path="/admin/keys",
        endpoint=_create,
        scope="admin",
        summary="Make a key.",
        takes=KeySpec,
        gives=NewKey,
    ),
    Route(method="GET", path="/admin/keys", endpoint=_list, scope="admin", summary="All keys.", gives=KeyList),
    Route(method="GET", path="/admin/keys/{id}", endpoint=_get, scope="admin", summary="One key.", gives=Key),
    Route(
        method="DELETE",
        path="/admin/keys/{id}",
        endpoint=_revoke,
        scope="admin",
        summary="Revoke a key, at once.",
        gives=DeletedKey,
    ),
)

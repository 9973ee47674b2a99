"""`/v1/organization/projects/{id}/service_accounts`: accounts that are nobody's, and their keys."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, expiry, listing, read_body, read_page, whole
from headgate.core.errors import BadCall
from headgate.tenancy.keyring import CreatedKey, KeySpec
from headgate.tenancy.records import Account, ProjectRole

BASE = "/v1/organization/projects/{id}/service_accounts"


class ServiceAccount(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.service_account"] = "organization.project.service_account"
    name: str
    role: ProjectRole
    created_at: int


class ServiceAccountKey(Struct, frozen=True, kw_only=True):
    """The only time the key itself, `value`, is shown."""

    id: str
    object: Literal["organization.project.service_account.api_key"] = "organization.project.service_account.api_key"
    name: str
    value: str
    created_at: int
    expires_at: int | None


class NewServiceAccount(ServiceAccount, frozen=True, kw_only=True):
    api_key: ServiceAccountKey | None


class ServiceAccountSpec(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    create_service_account_only: bool | None = None
    """Without a key."""
    expires_in_seconds: int | None = None


class ServiceAccountChange(Struct, frozen=True, forbid_unknown_fields=True):
    name: str | None = None
    role: ProjectRole | None = None


class ServiceAccountKeySpec(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""
    expires_in_seconds: int | None = None


class DeletedServiceAccount(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["organization.project.service_account.deleted"] = "organization.project.service_account.deleted"
    deleted: bool = True


_spec = msgspec.json.Decoder(ServiceAccountSpec)
_change = msgspec.json.Decoder(ServiceAccountChange)
_key_spec = msgspec.json.Decoder(ServiceAccountKeySpec)


def _shown(account: Account) -> ServiceAccount:
    return ServiceAccount(id=account.id, name=account.name, role=account.role, created_at=int(account.created_at))


def _shown_key(created: CreatedKey) -> ServiceAccountKey:
    record = created.record
    return ServiceAccountKey(
        id=record.id,
        name=record.name,
        value=created.key,
        created_at=int(record.created_at),
        expires_at=whole(record.expires_at),
    )


async def _create(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _spec)
    tenancy, key = exchange.services.tenancy, None
    if not asked.create_service_account_only:
        spec = KeySpec(name=asked.name, expires_at=expiry(exchange, asked.expires_in_seconds))
        account, created = await tenancy.keys.create_account(exchange.path_id, asked.name, spec, by)
        key = _shown_key(created)
    elif asked.expires_in_seconds is not None:
        raise BadCall(
            "'expires_in_seconds' is a key's; leave it out where none is made.",
            param="expires_in_seconds",
            code="invalid_value",
        )
    else:
        account = await tenancy.accounts.create(exchange.path_id, asked.name, by)
    await exchange.send_json(
        NewServiceAccount(
            id=account.id, name=account.name, role=account.role, created_at=int(account.created_at), api_key=key
        )
    )


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    page = read_page(exchange, exchange.query(PAGING))
    shown = [_shown(account) for account in await exchange.services.tenancy.accounts.page(exchange.path_id, page)]
    await exchange.send_json(listing(shown, [account.id for account in shown], page.limit))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_shown(await exchange.services.tenancy.accounts.get(*_two(exchange))))


async def _update(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _change)
    accounts = exchange.services.tenancy.accounts
    await exchange.send_json(_shown(await accounts.update(*_two(exchange), asked.name, asked.role, by)))


async def _remove(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.services.tenancy.accounts.remove(*_two(exchange), by)
    await exchange.send_json(DeletedServiceAccount(id=exchange.path_ids[1]))


async def _add_key(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _key_spec)
    tenancy, (project_id, account_id) = exchange.services.tenancy, _two(exchange)
    await tenancy.accounts.get(project_id, account_id)
    spec = KeySpec(name=asked.name, expires_at=expiry(exchange, asked.expires_in_seconds))
    await exchange.send_json(_shown_key(await tenancy.keys.create_for(account_id, project_id, spec, by)))


def _two(exchange: Exchange) -> tuple[str, str]:
    project_id, account_id = exchange.path_ids
    return project_id, account_id


ROUTES = (
    Route(
        method="POST", path=BASE, endpoint=_create, scope="admin", summary="Make a service account, and its first key.",
        takes=ServiceAccountSpec, gives=NewServiceAccount,
    ),
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="A project's service accounts.",
        gives=Listing[ServiceAccount], query=PAGING,
    ),
    Route(
        method="GET", path=BASE + "/{account_id}", endpoint=_get, scope="admin", summary="One service account.",
        gives=ServiceAccount,
    ),
    Route(
        method="POST", path=BASE + "/{account_id}", endpoint=_update, scope="admin",
        summary="Change a service account's name or role.", takes=ServiceAccountChange, gives=ServiceAccount,
    ),
    Route(
        method="DELETE", path=BASE + "/{account_id}", endpoint=_remove, scope="admin",
        summary="Delete a service account: its keys are revoked.", gives=DeletedServiceAccount,
    ),
    Route(
        method="POST", path=BASE + "/{account_id}/api_keys", endpoint=_add_key, scope="admin",
        summary="Make one more key of a service account.", takes=ServiceAccountKeySpec, gives=ServiceAccountKey,
    ),
)  # fmt: skip

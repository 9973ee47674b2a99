"""`/v1/organization/projects/{id}/model_permissions`: which models a project may use, as its policy has it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, structs

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import admin, read_body
from headgate.core.errors import NotFound
from headgate.core.policy import Policy
from headgate.tenancy.policies import Owner

BASE = "/v1/organization/projects/{id}/model_permissions"
Mode = Literal["allow_list", "deny_list"]


class ModelPermissions(Struct, frozen=True, kw_only=True):
    object: Literal["project.model_permissions"] = "project.model_permissions"
    mode: Mode
    model_ids: tuple[str, ...]


class ModelPermissionsChange(Struct, frozen=True, forbid_unknown_fields=True):
    """Names and patterns of models. One list replaces the other."""

    mode: Mode
    model_ids: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=256)], ...], Meta(max_length=100)]


class DeletedModelPermissions(Struct, frozen=True, kw_only=True):
    object: Literal["project.model_permissions.deleted"] = "project.model_permissions.deleted"
    deleted: bool = True


_change = msgspec.json.Decoder(ModelPermissionsChange)


def _shown(policy: Policy) -> ModelPermissions:
    if policy.models is not None:
        return ModelPermissions(mode="allow_list", model_ids=policy.models)
    if policy.denied_models:
        return ModelPermissions(mode="deny_list", model_ids=policy.denied_models)
    raise NotFound("This project may use every model; it has no list.", code="model_permissions_not_found")


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_shown(await exchange.services.tenancy.policies.get(Owner("project", exchange.path_id))))


async def _set(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _change)

    def edit(policy: Policy) -> Policy:
        if asked.mode == "allow_list":
            return structs.replace(policy, models=asked.model_ids, denied_models=())
        return structs.replace(policy, models=None, denied_models=asked.model_ids)

    owner = Owner("project", exchange.path_id)
    await exchange.services.tenancy.policies.edit(owner, "model_permissions.updated", edit, by)
    await exchange.send_json(ModelPermissions(mode=asked.mode, model_ids=asked.model_ids))


async def _delete(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.services.tenancy.policies.edit(
        Owner("project", exchange.path_id),
        "model_permissions.deleted",
        lambda policy: structs.replace(policy, models=None, denied_models=()),
        by,
    )
    await exchange.send_json(DeletedModelPermissions())


ROUTES = (
    Route(
        method="GET", path=BASE, endpoint=_get, scope="admin", summary="Which models a project may use.",
        gives=ModelPermissions,
    ),
    Route(
        method="POST", path=BASE, endpoint=_set, scope="admin", summary="Set which models a project may use.",
        takes=ModelPermissionsChange, gives=ModelPermissions,
    ),
    Route(
        method="DELETE", path=BASE, endpoint=_delete, scope="admin", summary="Let a project use every model.",
        gives=DeletedModelPermissions,
    ),
)  # fmt: skip

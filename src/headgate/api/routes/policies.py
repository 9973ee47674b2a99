"""Whole policies, as JSON: of the organization, a project, a user, a key. Beyond what OpenAI's API has."""

import msgspec

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import admin, read_body
from headgate.core.policy import Policy
from headgate.tenancy.policies import Owner

PLACES = {
    "/v1/organization/policy": "the organization",
    "/v1/organization/projects/{id}/policy": "a project",
    "/v1/organization/users/{id}/policy": "a user",
    "/v1/organization/projects/{id}/api_keys/{key_id}/policy": "a key",
}
_policy = msgspec.json.Decoder(Policy)


def _owner(exchange: Exchange) -> Owner:
    ids = exchange.path_ids
    if not ids:
        return Owner("organization")
    if len(ids) == 2:
        return Owner("key", ids[1], ids[0])
    return Owner("user" if "/users/" in exchange.route else "project", ids[0])


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(await exchange.services.tenancy.policies.get(_owner(exchange)))


async def _put(exchange: Exchange) -> None:
    by = admin(exchange)
    policy = await read_body(exchange, _policy)
    await exchange.send_json(await exchange.services.tenancy.policies.put(_owner(exchange), policy, by))


ROUTES = tuple(
    route
    for path, whose in PLACES.items()
    for route in (
        Route(method="GET", path=path, endpoint=_get, scope="admin", summary=f"The policy of {whose}.", gives=Policy),
        Route(
            method="PUT", path=path, endpoint=_put, scope="admin", summary=f"Replace the policy of {whose}.",
            takes=Policy, gives=Policy,
        ),
    )
)  # fmt: skip

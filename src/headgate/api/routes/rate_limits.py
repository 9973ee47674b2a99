"""`/v1/organization/projects/{id}/rate_limits`: a project's limits by model, as its policy has them.

A limit's id is `rl-` and its model's name or pattern, percent-encoded where it has a slash.
"""

from typing import Literal
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import PAGING, Listing, admin, listing, read_body, read_page
from headgate.core.errors import BadCall, NotFound
from headgate.core.policy import Period, Policy, Unit
from headgate.tenancy import edits
from headgate.tenancy.policies import Owner

BASE = "/v1/organization/projects/{id}/rate_limits"
FIELDS = (*PAGING, "before")
_MEANT: dict[str, tuple[Unit, Period]] = {
    "max_requests_per_1_minute": ("requests", "minute"),
    "max_tokens_per_1_minute": ("tokens", "minute"),
    "max_requests_per_1_day": ("requests", "day"),
}


class RateLimit(Struct, frozen=True, kw_only=True):
    """The limits of calls that ask for this model or pattern; null: none of this project's."""

    id: str
    object: Literal["project.rate_limit"] = "project.rate_limit"
    model: str
    max_requests_per_1_minute: int | None
    max_tokens_per_1_minute: int | None
    max_requests_per_1_day: int | None


class RateLimitChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays as it is."""

    max_requests_per_1_minute: int | None = None
    max_tokens_per_1_minute: int | None = None
    max_requests_per_1_day: int | None = None


_change = msgspec.json.Decoder(RateLimitChange)


def limit_id(model: str) -> str:
    return "rl-" + quote(model, safe="*")


def _model(rate_limit_id: str) -> str:
    model = unquote(rate_limit_id.removeprefix("rl-"))
    if not rate_limit_id.startswith("rl-") or not 0 < len(model) <= 256 or not model.isprintable():
        raise NotFound(
            "A rate limit's id is 'rl-' and a model's name or pattern, such as rl-gpt-4o or rl-*.",
            code="rate_limit_not_found",
        )
    return model


def _shown(policy: Policy, model: str) -> RateLimit:
    def amount(name: str) -> int | None:
        limit = edits.limit_of(policy, *_MEANT[name], model)
        return None if limit is None else limit.amount

    return RateLimit(
        id=limit_id(model),
        model=model,
        max_requests_per_1_minute=amount("max_requests_per_1_minute"),
        max_tokens_per_1_minute=amount("max_tokens_per_1_minute"),
        max_requests_per_1_day=amount("max_requests_per_1_day"),
    )


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    page = read_page(exchange, exchange.query(FIELDS), default=100)
    policy = await exchange.services.tenancy.policies.get(Owner("project", exchange.path_id))
    limited = {limit.model for limit in policy.limits}
    models = sorted(limited | {"*"} | set(exchange.services.routes().exact))
    if page.after is not None:
        after = _cursor("after", page.after)
        models = [model for model in models if model > after]
    if page.before is not None:
        before = _cursor("before", page.before)
        nearest = [model for model in models if model < before][::-1]
        models = nearest[: page.limit][::-1] + nearest[page.limit :]
    shown = [_shown(policy, model) for model in models[: page.limit + 1]]
    await exchange.send_json(listing(shown, [limit.id for limit in shown], page.limit))


def _cursor(name: str, rate_limit_id: str) -> str:
    """The model of a place in the list, also of a limit that has gone since."""
    try:
        return _model(rate_limit_id)
    except NotFound as error:
        raise BadCall(f"'{name}': {error.message}", param=name, code="invalid_value") from None


async def _update(exchange: Exchange) -> None:
    by = admin(exchange)
    project_id, rate_limit_id = exchange.path_ids
    model = _model(rate_limit_id)
    asked = await read_body(exchange, _change)
    amounts = {name: amount for name in _MEANT if (amount := getattr(asked, name)) is not None}
    for name, amount in amounts.items():
        if not 1 <= amount <= 10**12:
            raise BadCall(f"'{name}' lies between 1 and {10**12}.", param=name, code="invalid_value")

    def edit(policy: Policy) -> Policy:
        for name, amount in amounts.items():
            policy = edits.with_amount(policy, *_MEANT[name], model, amount)
        return policy

    owner = Owner("project", project_id)
    policy = await exchange.services.tenancy.policies.edit(owner, "rate_limit.updated", edit, by)
    await exchange.send_json(_shown(policy, model))


ROUTES = (
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="A project's rate limits, by model.",
        gives=Listing[RateLimit], query=FIELDS,
    ),
    Route(
        method="POST", path=BASE + "/{rate_limit_id}", endpoint=_update, scope="admin",
        summary="Set a project's rate limits of a model or pattern.", takes=RateLimitChange, gives=RateLimit,
    ),
)  # fmt: skip

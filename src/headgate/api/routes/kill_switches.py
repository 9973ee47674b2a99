"""`/v1/organization/kill_switches`: models, backends, tenants and features turned off. OpenAI's API has none."""

import math
from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import Listing, admin, expiry, listing, read_body
from headgate.core.errors import BadCall
from headgate.core.switches import Kind, Switch
from headgate.release.switches import WAIT_SECONDS, WAIT_SECONDS_MAX, Force, Spec, Standing

BASE = "/v1/organization/kill_switches"
FIELDS = ("wait_s",)


class KillSwitch(Struct, frozen=True, kw_only=True):
    """Unix seconds."""

    id: str
    object: Literal["headgate.kill_switch"] = "headgate.kill_switch"
    kind: Kind
    name: str
    fallback_model: str | None
    message: str | None
    reason: str
    created_at: float
    created_by: str
    expires_at: float | None


class KillSwitchOn(KillSwitch, frozen=True, kw_only=True):
    """With `in_force`, the next request on every replica meets it; else `replicas` says which have not got it yet."""

    in_force: bool
    replicas: tuple[Standing, ...]


class KillSwitchSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """`expires_at` or `expires_in_seconds`; neither: until it is turned off."""

    kind: Kind
    name: str
    reason: str
    fallback_model: str | None = None
    message: str | None = None
    expires_at: float | None = None
    expires_in_seconds: int | None = None


class DeletedKillSwitch(Struct, frozen=True, kw_only=True):
    """`in_force` says whether every replica has heard of it."""

    id: str
    object: Literal["headgate.kill_switch.deleted"] = "headgate.kill_switch.deleted"
    deleted: bool = True
    in_force: bool
    replicas: tuple[Standing, ...]


_spec = msgspec.json.Decoder(KillSwitchSpec)


def _fields(switch: Switch) -> dict[str, object]:
    return msgspec.structs.asdict(switch)


def _wait(exchange: Exchange) -> float:
    """How long the answer may wait for the replicas. Raises `BadCall`."""
    text = exchange.query(FIELDS).get("wait_s", [str(WAIT_SECONDS)])[-1]
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= WAIT_SECONDS_MAX:
        raise BadCall(
            f"'wait_s' lies between 0 and {WAIT_SECONDS_MAX:g} seconds.", param="wait_s", code="invalid_value"
        )
    return seconds


def _checked(exchange: Exchange, asked: KillSwitchSpec) -> Spec:
    """Raises `BadCall` naming the field."""
    ends = asked.expires_at
    if asked.expires_in_seconds is not None:
        if ends is not None:
            raise BadCall(
                "Give 'expires_at' or 'expires_in_seconds', not both.",
                param="expires_in_seconds",
                code="invalid_value",
            )
        ends = expiry(exchange, asked.expires_in_seconds)
    if asked.fallback_model is not None and exchange.services.routes().find(asked.fallback_model) is None:
        raise BadCall(
            f"Nothing serves the fallback '{asked.fallback_model[:100]}'; name a model that GET /v1/models lists.",
            param="fallback_model",
            code="model_not_found",
        )
    return Spec(
        kind=asked.kind,
        name=asked.name,
        reason=asked.reason,
        fallback_model=asked.fallback_model,
        message=asked.message,
        expires_at=ends,
    )


async def _turn_on(exchange: Exchange) -> None:
    by = admin(exchange)
    wait = _wait(exchange)
    asked = _checked(exchange, await read_body(exchange, _spec))
    switch, force = await exchange.services.switches.turn_on(asked, by, wait)
    await exchange.send_json(_on(switch, force))


def _on(switch: Switch, force: Force) -> KillSwitchOn:
    return msgspec.convert({**_fields(switch), "in_force": force.everywhere, "replicas": force.replicas}, KillSwitchOn)


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    exchange.query(())
    found = [msgspec.convert(_fields(switch), KillSwitch) for switch in await exchange.services.switches.all()]
    await exchange.send_json(listing(found, [switch.id for switch in found], len(found)))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    switch = await exchange.services.switches.get(exchange.path_id)
    await exchange.send_json(_on(switch, await exchange.services.switches.force()))


async def _turn_off(exchange: Exchange) -> None:
    by = admin(exchange)
    switch, force = await exchange.services.switches.turn_off(exchange.path_id, by, _wait(exchange))
    await exchange.send_json(DeletedKillSwitch(id=switch.id, in_force=force.everywhere, replicas=force.replicas))


ROUTES = (
    Route(
        method="POST", path=BASE, endpoint=_turn_on, scope="admin",
        summary="Turn off a model, backend, tenant or feature, on every replica.",
        takes=KillSwitchSpec, gives=KillSwitchOn, query=FIELDS,
    ),
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="Kill switches in force, newest first.",
        gives=Listing[KillSwitch],
    ),
    Route(
        method="GET", path=BASE + "/{id}", endpoint=_get, scope="admin",
        summary="One kill switch, and where it is in force.", gives=KillSwitchOn,
    ),
    Route(
        method="DELETE", path=BASE + "/{id}", endpoint=_turn_off, scope="admin",
        summary="Let what a kill switch turned off go on.", gives=DeletedKillSwitch, query=FIELDS,
    ),
)  # fmt: skip

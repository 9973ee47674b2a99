"""`/v1/organization/projects/{id}/spend_stop`: a project's calls stopped, and let go on. OpenAI's API has none."""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import admin, read_body
from headgate.core.errors import NotFound
from headgate.tenancy.records import Stop

BASE = "/v1/organization/projects/{id}/spend_stop"


class SpendStop(Struct, frozen=True, kw_only=True):
    """Calls of the project are refused until then. Unix seconds."""

    object: Literal["headgate.spend_stop"] = "headgate.spend_stop"
    project: str
    reason: str
    since: float
    until: float


class SpendStopSpec(Struct, frozen=True, forbid_unknown_fields=True):
    until: float
    reason: str = "An administrator stopped them."


class ReleasedSpendStop(Struct, frozen=True, kw_only=True):
    object: Literal["headgate.spend_stop.released"] = "headgate.spend_stop.released"
    project: str
    released: bool = True


_spec = msgspec.json.Decoder(SpendStopSpec)


async def _stop_of(exchange: Exchange) -> SpendStop:
    stops: list[Stop] = await exchange.services.tenancy.stops.all()
    for stop in stops:
        if stop.project == exchange.path_id:
            return SpendStop(project=stop.project, reason=stop.reason, since=stop.since, until=stop.until)
    raise NotFound("This project is not stopped.", code="not_stopped")


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(await _stop_of(exchange))


async def _set(exchange: Exchange) -> None:
    by = admin(exchange)
    asked = await read_body(exchange, _spec)
    await exchange.services.tenancy.stops.stop(exchange.path_id, asked.reason, asked.until, by)
    await exchange.send_json(await _stop_of(exchange))


async def _release(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.services.tenancy.stops.release(exchange.path_id, by)
    await exchange.send_json(ReleasedSpendStop(project=exchange.path_id))


ROUTES = (
    Route(method="GET", path=BASE, endpoint=_get, scope="admin", summary="Why a project is stopped.", gives=SpendStop),
    Route(
        method="POST", path=BASE, endpoint=_set, scope="admin", summary="Stop a project's calls until a time.",
        takes=SpendStopSpec, gives=SpendStop,
    ),
    Route(
        method="DELETE", path=BASE, endpoint=_release, scope="admin", summary="Let a stopped project go on.",
        gives=ReleasedSpendStop,
    ),
)  # fmt: skip

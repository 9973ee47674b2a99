"""`/v1/organization/engines`: the models in this process's care, loaded and unloaded while it serves.

OpenAI's API has none. What is changed here is changed in the process that answers, not on other replicas.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import admin, read_body
from headgate.api.services import EngineDesk
from headgate.core.errors import NotFound
from headgate.core.hosting import EngineView, LoadSpec, Memory

BASE = "/v1/organization/engines"


class EngineListing(Struct, frozen=True, kw_only=True):
    """All of them, and the memory they are counted with."""

    object: Literal["list"] = "list"
    data: list[EngineView]
    memory: Memory


_spec = msgspec.json.Decoder(LoadSpec)


def _desk(exchange: Exchange) -> EngineDesk:
    desk = exchange.services.engines
    if desk is None:
        raise NotFound("The engine is off here: set engine.enabled, and restart.", code="engine_off")
    return desk


async def _list(exchange: Exchange) -> None:
    admin(exchange)
    exchange.query(())
    desk = _desk(exchange)
    await exchange.send_json(EngineListing(data=desk.all(), memory=desk.memory()))


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    await exchange.send_json(_desk(exchange).get(exchange.path_id))


async def _load(exchange: Exchange) -> None:
    by = admin(exchange)
    desk = _desk(exchange)
    await exchange.send_json(await desk.load(await read_body(exchange, _spec), by))


async def _unload(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.send_json(await _desk(exchange).unload(exchange.path_id, by))


async def _sleep(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.send_json(await _desk(exchange).sleep(exchange.path_id, by))


async def _wake(exchange: Exchange) -> None:
    by = admin(exchange)
    await exchange.send_json(await _desk(exchange).wake(exchange.path_id, by))


ROUTES = (
    Route(
        method="GET", path=BASE, endpoint=_list, scope="admin", summary="The engines here, and their memory.",
        gives=EngineListing,
    ),
    Route(
        method="POST", path=BASE, endpoint=_load, scope="admin", summary="Begin to load a model.",
        takes=LoadSpec, gives=EngineView,
    ),
    Route(
        method="GET", path=BASE + "/{id}", endpoint=_get, scope="admin", summary="One engine: its state and its start.",
        gives=EngineView,
    ),
    Route(
        method="DELETE", path=BASE + "/{id}", endpoint=_unload, scope="admin",
        summary="Unload a model when its calls in progress have ended.", gives=EngineView,
    ),
    Route(
        method="POST", path=BASE + "/{id}/sleep", endpoint=_sleep, scope="admin",
        summary="End the process of an idle model until the next call.", gives=EngineView,
    ),
    Route(
        method="POST", path=BASE + "/{id}/wake", endpoint=_wake, scope="admin", summary="Begin to wake a model.",
        gives=EngineView,
    ),
)  # fmt: skip

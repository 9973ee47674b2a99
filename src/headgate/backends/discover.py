"""Finds model servers nobody configured: providers whose key is in the environment, and servers on this machine."""

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct

from headgate.backends.catalog import BackendSettings, build
from headgate.backends.http.address import parse_base_url
from headgate.backends.http.client import HttpClient, request_head
from headgate.backends.openai_models import read_models
from headgate.backends.providers import LOCAL_SERVERS, PROVIDERS, LocalServer
from headgate.core.clock import Clock
from headgate.core.deadline import Deadline, Timeouts
from headgate.core.errors import HeadgateError
from headgate.core.ports import ModelInfo

LOCAL_PROBE_S = 0.3
PROVIDER_LIST_S = 5.0
OWN_HEADER = b"x-headgate-version"
"""A server that answers with it is one of us: forwarding to it could go in circles."""
_LIST_BYTES = 8 * 1024 * 1024


class Discovered(Struct, frozen=True):
    """A server that answered, and its models; `detail` says why there are none."""

    settings: BackendSettings
    models: tuple[ModelInfo, ...]
    detail: str = ""


async def discover(
    env: Mapping[str, str],
    clock: Clock,
    *,
    own_port: int | None = None,
    local: Mapping[str, LocalServer] = LOCAL_SERVERS,
    host: str = "127.0.0.1",
) -> list[Discovered]:
    """Providers first, in the catalogue's order, then local servers. All are asked at once. Raises nothing.

    A provider whose key is set but whose list cannot be had is returned without models and with the reason.
    """
    named = [
        BackendSettings(name=name, provider=name)
        for name, provider in PROVIDERS.items()
        if env.get(provider.api_key_env, "").strip()
    ]
    nearby = [
        BackendSettings(name=name, base_url=f"http://{host}:{server.port}/v1", timeouts=Timeouts(connect_s=2.0))
        for name, server in local.items()
        if server.port != own_port
    ]
    hosted = asyncio.gather(*(_provider(settings, env, clock) for settings in named))
    found = await asyncio.gather(*(_local(settings, clock) for settings in nearby))
    return [*await hosted, *(server for server in found if server is not None)]


async def _provider(settings: BackendSettings, env: Mapping[str, str], clock: Clock) -> Discovered:
    try:
        backend = build(settings, clock, env)
    except ValueError as error:
        return Discovered(settings, (), str(error))
    try:
        async with asyncio.timeout(PROVIDER_LIST_S):
            return Discovered(settings, tuple(await backend.models()))
    except HeadgateError as error:
        return Discovered(settings, (), error.message)
    except TimeoutError:
        return Discovered(settings, (), f"its list of models did not come within {PROVIDER_LIST_S:g} s")
    finally:
        await backend.aclose()


async def _local(settings: BackendSettings, clock: Clock) -> Discovered | None:
    """What listens there, if it lists models as OpenAI does and is not one of us."""
    models = await _ask(settings.base_url or "", clock)
    return None if models is None else Discovered(settings, tuple(models))


async def _ask(base_url: str, clock: Clock) -> Sequence[ModelInfo] | None:
    origin = parse_base_url(base_url)
    client = HttpClient(origin, clock)
    head = request_head(origin, "GET", f"{origin.path}/models", {"accept": "application/json"})
    limits = Timeouts(LOCAL_PROBE_S, LOCAL_PROBE_S, LOCAL_PROBE_S, LOCAL_PROBE_S)
    try:
        exchange = await client.send(head, timeouts=limits, deadline=Deadline.after(clock, LOCAL_PROBE_S))
        try:
            if exchange.status != 200 or exchange.header(OWN_HEADER) is not None:
                return None
            return read_models(await exchange.read_all(_LIST_BYTES))
        finally:
            exchange.abort()
    except HeadgateError:
        return None
    finally:
        client.close()

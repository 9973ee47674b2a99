"""The settings of a backend, and the one table from kinds to what builds them."""

import re
import ssl
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from headgate.backends.http.pool import PoolSettings
from headgate.backends.openai import DEADLINE_HEADER, OpenAIBackend, OpenAISettings
from headgate.backends.prefill import Prefill
from headgate.backends.providers import PROVIDERS
from headgate.backends.script import Script
from headgate.backends.scripted import ScriptedBackend
from headgate.core.clock import Clock
from headgate.core.deadline import Timeouts
from headgate.core.ports import Backend

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")


_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ReplicaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several servers, or credentials, behind a backend's name. What is not set is the backend's."""

    name: _Name | None = None
    """By default the backend's name and a number: `vllm-1`."""
    base_url: str | None = None
    api_key_env: str | None = None
    weight: Annotated[float, Meta(gt=0)] = 1.0


class BackendSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `backends` in the configuration."""

    name: _Name
    kind: Literal["openai", "scripted", "embedded"] = "openai"
    provider: str | None = None
    """A name from the catalogue; gives `base_url` and `api_key_env` where they are not set."""
    base_url: str | None = None
    """Such as `http://127.0.0.1:8000/v1`. May hold `{model}` in its path."""
    api_key_env: str | None = None
    """The environment variable that holds the key."""
    auth: Literal["bearer", "api-key", "none"] = "bearer"
    organization: str | None = None
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    """Added to every request's URL, such as `api-version`."""
    models: tuple[str, ...] | None = None
    """The models to offer; None: what the server lists."""
    aliases: dict[str, str] = {}
    """Names for callers, to names of the server."""
    usage_in_stream: bool | None = None
    """Ask for usage in streams. None: as the catalogue says, else yes."""
    finish_reasons: bool = True
    """Whether its streams say why each choice ended. Off: `[DONE]` alone is taken for the end of a whole answer."""
    output_cap_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """How the server is told the most tokens a chat answer may have. None: as the catalogue says, else max_tokens."""
    prefill: Prefill | None = None
    """How the server is asked to go on with a chat answer that was cut. None: as the catalogue says, else none."""
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    """Calls in progress there at once; more wait in fair order. None: found out from its latency."""
    probe_path: str = "/models"
    """What health probes ask for. Below `base_url`; with `//` in front below the server's root: `//health`."""
    deadline_header: str = DEADLINE_HEADER
    """Tells the server how many seconds the call has left. Empty: it is not told."""
    timeouts: Timeouts = Timeouts()
    pool: PoolSettings = PoolSettings()
    ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    verify_tls: bool = True
    script: Script = Script()
    """For kind `scripted`: what it does unless a call says otherwise."""
    replicas: tuple[ReplicaSettings, ...] = ()
    """Several servers or credentials that serve the same models; calls are balanced over them."""


def members(settings: BackendSettings) -> list[tuple[BackendSettings, float]]:
    """The settings of each replica, with its weight; of a backend without replicas its own."""
    if not settings.replicas:
        return [(settings, 1.0)]
    found = []
    for number, replica in enumerate(settings.replicas, 1):
        one = structs.replace(
            settings,
            name=replica.name or f"{settings.name}-{number}",
            base_url=replica.base_url or settings.base_url,
            api_key_env=replica.api_key_env or settings.api_key_env,
            replicas=(),
        )
        found.append((one, replica.weight))
    return found


def build(settings: BackendSettings, clock: Clock, env: Mapping[str, str]) -> Backend:
    """A backend for these settings. Raises `ValueError` with the remedy where they cannot work."""
    if settings.kind == "scripted":
        models = settings.models or ("scripted",)
        return ScriptedBackend(clock, name=settings.name, models=models, script=settings.script)
    if settings.kind != "openai":
        raise ValueError(f"backend {settings.name!r}: kind {settings.kind!r} is built where the engine is")
    try:
        return OpenAIBackend(_openai(settings, env), clock)
    except (ValueError, OSError, ssl.SSLError) as error:
        raise ValueError(f"backend {settings.name!r}: {error}") from error


def _openai(settings: BackendSettings, env: Mapping[str, str]) -> OpenAISettings:
    provider = None
    if settings.provider is not None:
        provider = PROVIDERS.get(settings.provider)
        if provider is None:
            raise ValueError(f"no provider {settings.provider!r}; known are {', '.join(sorted(PROVIDERS))}")
    base_url = settings.base_url or (provider.base_url if provider is not None else None)
    if base_url is None:
        raise ValueError("it needs a base_url or a provider")
    variable = settings.api_key_env or (provider.api_key_env if provider is not None else None)
    key = env.get(variable, "").strip() if variable is not None else ""
    if variable is not None and not key:
        if not _VARIABLE.fullmatch(variable):  # most likely the key itself: it may not be repeated
            raise ValueError("api_key_env takes the name of an environment variable, not the key; no such one is set")
        raise ValueError(f"the environment variable {variable} is not set")
    headers = dict(settings.headers)
    if settings.organization is not None:
        headers["openai-organization"] = settings.organization
    in_stream = settings.usage_in_stream
    if in_stream is None:
        in_stream = provider.usage_in_stream if provider is not None else True
    cap_field = settings.output_cap_field or (provider.output_cap_field if provider is not None else "max_tokens")
    prefill = settings.prefill or (provider.prefill if provider is not None else None)
    return OpenAISettings(
        name=settings.name,
        output_cap_field=cap_field,
        finish_reasons=settings.finish_reasons,
        prefill=prefill,
        base_url=base_url,
        api_key=key or None,
        auth=settings.auth,
        headers=headers,
        query=settings.query,
        usage_in_stream=in_stream,
        probe_path=settings.probe_path,
        deadline_header=settings.deadline_header,
        timeouts=settings.timeouts,
        pool=settings.pool,
        ca_file=settings.ca_file,
        verify=settings.verify_tls,
    )

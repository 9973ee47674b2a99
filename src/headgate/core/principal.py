"""Who is calling, and what the key allows."""

import hmac
from typing import Literal

from msgspec import Struct

from headgate.core.policy import Governed

Scope = Literal["inference", "admin"]


class KeyLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one key. None means the default of the configuration."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


class Principal(Struct, frozen=True):
    """A caller whose key was checked."""

    key_id: str
    tenant: str
    scopes: frozenset[Scope]
    name: str = ""
    models: tuple[str, ...] | None = None
    """Patterns of models this key may use; None: all."""
    expires_at: float | None = None
    """Unix seconds."""
    limits: KeyLimits = KeyLimits()
    user_id: str | None = None
    """The organization's user whose key it is; None for keys of projects and service accounts."""
    policies: tuple[Governed, ...] = ()
    """All that apply to its calls, the organization's first."""
    blocked: str | None = None
    """Why its calls are refused for now, such as a spend-velocity trip; None where they are not."""


class KeyTable(Struct, frozen=True):
    """A snapshot of all valid keys, by keyed hash (hex HMAC-SHA-256 of the key under the server's secret)."""

    version: int
    by_hash: dict[str, Principal]
    ended: dict[str, str] = {}
    """Keys that were not revoked and stopped working all the same, with the code that says why."""
    stale: bool = False
    """SQL is away: a key that is not here may have been made meanwhile."""


def hash_key(secret: bytes, key: str) -> str:
    """HMAC-SHA-256 under the server's secret: a stolen table of hashes is no use without it."""
    return hmac.digest(secret, key.encode("utf-8", "surrogatepass"), "sha256").hex()

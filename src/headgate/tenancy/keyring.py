"""What a key is, as it is asked for, kept and shown."""

from typing import Literal

from msgspec import Struct

from headgate.core.policy import Policy
from headgate.core.principal import KeyLimits, Scope

Kind = Literal["project", "user", "account", "admin"]
"""Whose it is: the project's as such, a user's in it, a service account's; or it is for administration only."""


class KeySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a new key shall be."""

    name: str = ""
    tenant: str = "default"
    """The project's id. One that is not there yet is made, under that name."""
    scopes: tuple[Scope, ...] = ("inference",)
    models: tuple[str, ...] | None = None
    expires_at: float | None = None
    limits: KeyLimits = KeyLimits()
    user_id: str | None = None
    """The user whose key it is; becomes a member of the project."""
    policy: Policy | None = None


class KeyRecord(Struct, frozen=True):
    """A key as administrators see it: never the key itself, only its visible prefix. Times are Unix seconds."""

    id: str
    prefix: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...] | None
    limits: KeyLimits
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    kind: Kind = "project"
    user_id: str | None = None
    account_id: str | None = None
    policy: Policy | None = None


class CreatedKey(Struct, frozen=True):
    """The only time the key itself is shown."""

    record: KeyRecord
    key: str

"""What a key is, as it is asked for, kept and shown."""

from msgspec import Struct

from headgate.core.principal import KeyLimits, Principal, Scope


class KeySpec(Struct, frozen=True, forbid_unknown_fields=True):
    """What a new key shall be."""

    name: str = ""
    tenant: str = "default"
    scopes: tuple[Scope, ...] = ("inference",)
    models: tuple[str, ...] | None = None
    expires_at: float | None = None
    limits: KeyLimits = KeyLimits()


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

    def principal(self) -> Principal:
        return Principal(
            self.id, self.tenant, frozenset(self.scopes), self.name, self.models, self.expires_at, self.limits
        )


class CreatedKey(Struct, frozen=True):
    """The only time the key itself is shown."""

    record: KeyRecord
    key: str

"""Who is calling: a key against a snapshot in memory. No SQL, no waiting."""

from fnmatch import fnmatchcase

from headgate.core.clock import Clock
from headgate.core.errors import Forbidden, Overloaded, Unauthorized
from headgate.core.principal import KeyTable, Principal, Scope, hash_key

KEY_LENGTH_MAX = 256
ENDED = {
    "project_archived": "its project is archived.",
    "user_removed": "its user was removed from the organization.",
    "not_a_member": "its user is no longer a member of the project.",
}
"""Why a key stopped working without being revoked, by code."""


class Auth:
    """Holds the newest `KeyTable`; replacing it is one assignment, so a revoked key fails on the next call."""

    def __init__(self, clock: Clock, secret: bytes, table: KeyTable | None = None) -> None:
        self._clock = clock
        self._secret = secret
        self.table = table or KeyTable(0, {})

    def check(self, credential: str | None, scope: Scope, model: str | None = None) -> Principal:
        """The principal of a key that may use `scope`, and `model` where one is given.

        The look-up is by keyed hash, so its time tells nothing about how much of a guess was right.
        Raises `Unauthorized` or `Forbidden`, and `Overloaded` for an unknown key while SQL is away.
        """
        if not credential:
            raise Unauthorized(
                "No API key was sent. Send it as 'Authorization: Bearer YOUR_KEY'; "
                "make one with 'headgate keys create'.",
                code="missing_api_key",
            )
        table, principal = self.table, None
        if len(credential) <= KEY_LENGTH_MAX:
            hashed = hash_key(self._secret, credential)
            principal = table.by_hash.get(hashed)
            if principal is None:
                refuse_unknown(table, hashed)
        if principal is None:
            raise Unauthorized("The API key is not valid, or was revoked. Check it, or ask your administrator for one.")
        if principal.expires_at is not None and principal.expires_at <= self._clock.now():
            raise Unauthorized("The API key has expired. Ask your administrator for a new one.", code="expired_api_key")
        if scope not in principal.scopes:
            raise Forbidden(f"This API key lacks the scope '{scope}'. Use a key that has it.", code="missing_scope")
        if model is not None and not may_use(principal, model):
            raise Forbidden(
                f"This API key may not use the model '{model[:200]}'. GET /v1/models lists those it may use.",
                code="model_not_allowed",
                param="model",
            )
        return principal


def refuse_unknown(table: KeyTable, hashed: str) -> None:
    """Raises where more is known of a key than that it is not valid."""
    code = table.ended.get(hashed)
    if code is not None:
        raise Unauthorized(f"The API key no longer works: {ENDED[code]} Use another key.", code=code)
    if table.stale:
        raise Overloaded(
            "The database of keys cannot be reached, and this key is not known from before. Try again shortly.",
            code="keys_unavailable",
            retry_after=1.0,
        )


def may_use(principal: Principal, model: str) -> bool:
    """Whether the key's own list of model patterns, if it has one, and every policy above it admit this name."""
    if principal.models is not None and not any(fnmatchcase(model, pattern) for pattern in principal.models):
        return False
    return all(governed.policy.allows(model) for governed in principal.policies)

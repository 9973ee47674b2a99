"""API keys: made, listed, revoked. SQL holds the truth; the data plane reads a snapshot of it."""

import asyncio
import random
import secrets
from collections.abc import Callable

from msgspec import structs

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, NotFound
from headgate.core.ids import Ids
from headgate.core.principal import KeyTable, Scope, hash_key
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.tenancy.keyring import CreatedKey, KeyRecord, KeySpec
from headgate.tenancy.store import Store

PREFIX = "hg-"
VISIBLE_LENGTH = 11
POLL_SECONDS = 0.5
"""How often a replica looks whether another process changed the keys."""
REFRESH_SECONDS = 10.0
EXPIRY_MAX = 253_402_300_800.0
"""The year 10000, which no calendar can show."""
LIMIT_MAX = 10**12
_SCOPES: tuple[Scope, ...] = ("inference", "admin")


class Keys:
    """The service behind the admin API and the command line. `publish` swaps the snapshot that auth reads."""

    def __init__(
        self, store: Store, secret: bytes, clock: Clock, ids: Ids, publish: Callable[[KeyTable], None], log: Log
    ) -> None:
        self._store = store
        self._secret = secret
        self._clock = clock
        self._ids = ids
        self._publish = publish
        self._log = log
        self._table = KeyTable(-1, {})
        self._turn = asyncio.Lock()

    def knows(self, key: str) -> bool:
        """Whether the key is valid in the newest snapshot."""
        return hash_key(self._secret, key) in self._table.by_hash

    async def create(self, spec: KeySpec, key: str | None = None, key_id: str | None = None) -> CreatedKey:
        """Makes a key, or registers a given one under a given id (bootstrap). Raises `BadCall` on a bad spec."""
        _check(spec, self._clock)
        key = key or PREFIX + secrets.token_urlsafe(32)
        record = KeyRecord(
            id=key_id or self._ids.new("key"),
            prefix=key[:VISIBLE_LENGTH],
            name=spec.name,
            tenant=spec.tenant,
            scopes=spec.scopes,
            models=spec.models,
            limits=spec.limits,
            created_at=self._clock.now(),
            expires_at=spec.expires_at,
        )
        await self._store.put_key(record, hash_key(self._secret, key))
        await self.refresh()
        return CreatedKey(record, key)

    async def list(self) -> list[KeyRecord]:
        """All keys ever made, newest first."""
        return [record for record, _ in await self._store.keys()]

    async def revoke(self, key_id: str) -> KeyRecord:
        """Effective in this process when it returns, in others within `POLL_SECONDS`. Raises `NotFound`."""
        for record, _ in await self._store.keys():
            if record.id == key_id:
                if record.revoked_at is None:
                    now = self._clock.now()
                    record = structs.replace(record, revoked_at=now)
                    await self._store.revoke_key(key_id, now)
                await self.refresh()
                return record
        raise NotFound(f"There is no key '{key_id[:100]}'. List the keys to see their ids.", code="key_not_found")

    async def refresh(self) -> None:
        """Publishes a new snapshot if SQL has another version than the one published last.

        One at a time: a slow one could otherwise publish last what it read first, and a revoked key would live again.
        """
        async with self._turn:
            version = await self._store.keys_version()
            if version == self._table.version:
                return
            rows = await self._store.keys()
            valid = {hashed: record.principal() for record, hashed in rows if record.revoked_at is None}
            self._table = KeyTable(version, valid)
            self._publish(self._table)
        self._log.event(names.KEYS_CHANGED, "debug", version=version, valid=len(valid))

    async def watch(self, rng: random.Random) -> None:
        """Until cancelled: follows changes made by other processes. While SQL is away the last snapshot serves on."""
        away = False
        while True:
            await self._clock.sleep(POLL_SECONDS * rng.uniform(0.8, 1.2))
            try:
                async with asyncio.timeout(REFRESH_SECONDS):
                    await self.refresh()
                away = False
            except (HeadgateError, TimeoutError) as error:
                if not away:
                    self._log.event(names.KEYS_STALE, "warning", error=str(error) or "no answer in time")
                away = True


def _check(spec: KeySpec, clock: Clock) -> None:
    if not spec.scopes:
        raise BadCall(f"A key needs at least one scope of: {', '.join(_SCOPES)}.", param="scopes")
    if not spec.tenant or len(spec.tenant) > 100 or not spec.tenant.isprintable():
        raise BadCall("A tenant is 1 to 100 printable characters.", param="tenant")
    if len(spec.name) > 200 or not spec.name.isprintable():
        raise BadCall("A key's name has at most 200 characters, all printable.", param="name")
    if spec.models is not None and (
        len(spec.models) > 100 or any(not 0 < len(m) <= 256 or not m.isprintable() for m in spec.models)
    ):
        raise BadCall("A key names at most 100 model patterns of 1 to 256 printable characters.", param="models")
    if spec.expires_at is not None and spec.expires_at <= clock.now():
        raise BadCall("The expiry lies in the past; give a later time.", param="expires_at")
    if spec.expires_at is not None and not spec.expires_at < EXPIRY_MAX:
        raise BadCall(
            "The expiry is in Unix seconds, before the year 10000; leave it out for never.", param="expires_at"
        )
    for field, value in structs.asdict(spec.limits).items():
        if value is not None and not 1 <= value <= LIMIT_MAX:
            raise BadCall(
                f"A limit lies between 1 and {LIMIT_MAX}; leave it out for the default.", param=f"limits.{field}"
            )

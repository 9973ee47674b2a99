"""Hot reload: on SIGHUP or a changed file the new configuration is validated and swapped in; a bad one is refused."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from headgate.app.build import Parts, price_table
from headgate.app.config import Config, find_file
from headgate.app.yamlfile import ConfigError
from headgate.telemetry import names
from headgate.telemetry.log import Log

LOOK_SECONDS = 1.0
_FIXED = ("server", "storage", "idempotency", "streams", "engine", "ledger", "events", "health")
"""Sections whose change needs a restart."""


class Reloader:
    """Holds the last good configuration; applies one change at a time."""

    def __init__(self, parts: Parts, config: Config, file: str | None, load: Callable[[], Config], log: Log) -> None:
        self._parts = parts
        self._config = config
        self._file = file
        self._load = load
        self._log = log
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reload soon; called by the signal."""
        self._asked.set()

    async def watch(self) -> None:
        """Until cancelled."""
        stamp = self._stamp()
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                if self._stamp() == stamp:
                    continue
            self._asked.clear()
            stamp = self._stamp()
            await self.reload()

    async def reload(self) -> bool:
        """Whether the configuration was good. A refused one is logged with file, line and remedy."""
        try:
            config = self._load()
            prices = price_table(config)
            await self._parts.fleet.apply(config)
        except ConfigError as error:
            self._log.event(names.CONFIG_REFUSED, "error", error=str(error), note="the last good one stays in force")
            return False
        self._parts.meter.prices = prices
        self._log.level = config.log.level
        restart = [name for name in _FIXED if getattr(config, name) != getattr(self._config, name)]
        self._config = structs.replace(config, **{name: getattr(self._config, name) for name in _FIXED})
        self._parts.path.use(self._config)
        self._log.event(
            names.CONFIG_RELOADED,
            models=len(self._parts.gateway.routes.exact),
            needs_restart=restart or None,
        )
        return True

    def _stamp(self) -> tuple[int, int] | None:
        """What tells that the file has changed: an editor may replace it, so it is looked up anew."""
        try:
            path = find_file(self._file)
            if path is None:
                return None
            stat = Path(path).stat()
        except (ConfigError, OSError):
            return None
        return (stat.st_mtime_ns, stat.st_ino)

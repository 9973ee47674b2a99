"""Asks model servers for their metrics, each in a task of its own, and tells the balancer."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from msgspec import Meta, Struct

from headgate.backends.balance.server_metrics import ServerLoad, read_load
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.tasks import Tasks

Fetch = Callable[[str], Awaitable[str]]
"""Gets the page of metrics under this name; raises a `HeadgateError` or an `OSError` where there is none."""
BACK_OFF_MOST = 32
"""A server that says nothing is asked less often, down to once in so many intervals."""


class ScrapeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How often servers are asked, and how long they may take."""

    interval_s: Annotated[float, Meta(gt=0)] = 1.0
    timeout_s: Annotated[float, Meta(gt=0)] = 1.0


class Scraper:
    """`hear` gets what each server says of itself; `silent` tells why others say nothing."""

    def __init__(
        self,
        clock: Clock,
        fetch: Fetch,
        hear: Callable[[str, ServerLoad], None],
        settings: ScrapeSettings | None = None,
    ) -> None:
        self._clock = clock
        self._fetch = fetch
        self._hear = hear
        self._settings = settings or ScrapeSettings()
        self._tasks = Tasks()
        self._watched: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self.silent: dict[str, str] = {}
        """By `Target.at`: why the last question had no answer."""

    def watch(self, servers: Mapping[str, str]) -> None:
        """Asks exactly these from now on: what to fetch, by `Target.at`."""
        for at, (address, task) in list(self._watched.items()):
            if servers.get(at) != address:
                task.cancel()
                del self._watched[at]
                self.silent.pop(at, None)
        for at, address in servers.items():
            if at not in self._watched:
                self._watched[at] = (address, self._tasks.spawn(self._keep_asking(at, address), name=f"scrape {at}"))

    async def aclose(self) -> None:
        self._watched.clear()
        await self._tasks.aclose()

    async def _keep_asking(self, at: str, address: str) -> None:
        pause = 1
        while True:
            why = await self._ask(at, address)
            if why:
                self.silent[at] = why
                pause = min(BACK_OFF_MOST, pause * 2)
            else:
                self.silent.pop(at, None)
                pause = 1
            await self._clock.sleep(self._settings.interval_s * pause)

    async def _ask(self, at: str, address: str) -> str:
        """Why there was no answer, or nothing."""
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                page = await self._fetch(address)
        except TimeoutError:
            return f"{address} did not answer within {self._settings.timeout_s:g} s"
        except (HeadgateError, OSError, UnicodeError) as error:
            return f"{address}: {error}"
        seen = read_load(page)
        if seen is None:
            return f"{address} has no metric of a model server we know; does it need a flag, such as --metrics?"
        self._hear(at, seen)
        return ""

"""What whoever speaks with an engine's process has, whatever its model is for."""

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError, Overloaded
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.process import EngineProcess, unservable
from headgate.engine.settings import EngineSettings

MAX_UNREAD_BYTES = 64 * 2**20
"""Of requests that the process has not read yet; beyond, new ones are refused."""


class ModelClient(ABC):
    """One model in a process of its own. What can be refused is refused at once.

    A process that dies fails what was in flight with `Overloaded` and is replaced (`process.py`).
    """

    def __init__(self, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> None:
        self.folder = folder
        self.settings = settings or EngineSettings()
        self.process = EngineProcess(folder, self.settings, self, clock=clock, blas_threads=self._blas_threads())
        self._changed = asyncio.Event()
        self._draining = False

    @classmethod
    async def start(cls, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> Self:
        """A client whose process has loaded `folder` and computed something. Raises `ModelFolderError`."""
        client = cls(folder, settings, clock=clock)
        client.launch()
        try:
            await client.wait_ready()
        except BaseException:
            await client.aclose()
            raise
        return client

    def launch(self) -> None:
        """Starts the process and returns at once; `wait_ready` tells when it can be used."""
        self.process.launch()

    async def wait_ready(self) -> None:
        """Raises `ModelFolderError` if the model cannot be served, `Failed` if the client is closed first."""
        await self.process.wait_ready()

    async def awake(self) -> None:
        """To be awaited before anything is asked of a model that may sleep: returns when it is up again.

        Returns at once where it does not sleep, up or not. Raises `Overloaded` where it cannot be woken now.
        """
        await self.process.awake()

    @property
    def asleep(self) -> bool:
        """It has no process now; the next call wakes it."""
        return self.process.asleep

    @property
    def ready(self) -> bool:
        """The process is up and has computed something."""
        return self.process.ready

    @property
    def known(self) -> bool:
        """It has been ready before, so that what it said of itself then is known, asleep or not."""
        return self.process.starts > 0

    @property
    def refused(self) -> ModelFolderError | None:
        """Why the model cannot be served at all."""
        return self.process.refused

    @property
    def phases(self) -> dict[str, float]:
        """Seconds each part of the latest start took."""
        return self.process.phases

    @property
    def restarts(self) -> int:
        return self.process.restarts

    @property
    def trouble(self) -> str:
        """Why the latest process ended, or could not be started."""
        return self.process.trouble

    @property
    def pid(self) -> int | None:
        return self.process.pid

    @property
    @abstractmethod
    def in_flight(self) -> int:
        """Requests that are not answered yet."""

    @abstractmethod
    def received(self, message: wire.FromWorker) -> bool:
        """Implements `process.Owner`."""

    @abstractmethod
    def lost(self, error: HeadgateError) -> None:
        """Implements `process.Owner`."""

    async def drain(self) -> None:
        """Refuses new requests and returns when those in flight have ended."""
        self._draining = True
        while self.in_flight:
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Kills the process, which keeps nothing, and reaps it; idempotent. What is in flight fails."""
        await self.process.aclose()

    def _blas_threads(self) -> int:
        return 1

    def _expect_ready(self) -> None:
        """Raises `Overloaded` where no process takes requests now, `Failed` where none ever will."""
        if self._draining or self.process.closed:
            raise Overloaded("The engine is shutting down.", retry_after=1.0)
        if self.process.refused is not None:
            raise unservable()
        if not self.process.ready:
            raise Overloaded(f"The engine is {self.process.state}.", retry_after=1.0)

    def _expect_reading(self) -> None:
        """Raises `Overloaded` where the process does not keep up."""
        if self.process.unread > MAX_UNREAD_BYTES:
            raise Overloaded("The engine does not keep up with new requests.", retry_after=1.0)


def queue_full(in_flight: int, what: str) -> Overloaded:
    """By its code it is one call's alone: smaller ones may come meanwhile, the replica takes no pause."""
    return Overloaded(
        f"The engine's queue is full: {in_flight} {what} are in flight.", code="engine_queue_full", retry_after=1.0
    )

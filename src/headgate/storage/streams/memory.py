"""Streams of one process, in its memory."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from headgate.core.clock import Clock
from headgate.core.streams import READ_FRAMES, Gone, Page, StreamSettings

MIB = 1024 * 1024
SWEEP_S = 1.0


class _Kept:
    __slots__ = ("about", "changed", "first", "followed_until", "frames", "held", "last")

    def __init__(self, about: bytes) -> None:
        self.about = about
        self.frames: list[bytes] = []
        self.first = 1
        """The number of the first frame still kept."""
        self.held = 0
        self.last: int | None = None
        """The number of the last frame; None while there may be more."""
        self.followed_until = float("-inf")
        self.changed = asyncio.Event()

    @property
    def count(self) -> int:
        """The number of the newest frame."""
        return self.first + len(self.frames) - 1

    def tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class MemoryStreams:
    """`core.streams.StreamStore` for one process. Beyond `memory_mb` the streams that ended first are let go first."""

    def __init__(self, settings: StreamSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._stream_bytes = int(settings.stream_mb * MIB)
        self._memory_bytes = int(settings.memory_mb * MIB)
        self._kept: dict[str, _Kept] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()
        """When each is to be forgotten, the next one first."""
        self._held = 0

    @property
    def kept(self) -> int:
        self._sweep()
        return len(self._kept)

    @property
    def held(self) -> int:
        self._sweep()
        return self._held

    async def begin(self, key: str, about: bytes) -> None:
        self._kept.setdefault(key, _Kept(about))

    async def append(self, key: str, first: int, frames: Sequence[bytes]) -> None:
        kept = self._kept.get(key)
        if kept is None or kept.last is not None:
            return
        new = frames[max(0, kept.count + 1 - first) :]
        size = sum(map(len, new))
        kept.frames += new
        kept.held += size
        self._held += size
        self._trim(kept, self._stream_bytes)
        while self._held > self._memory_bytes and self._ended:
            self._drop(next(iter(self._ended)))
        if self._held > self._memory_bytes:
            self._trim(kept, max(0, kept.held - (self._held - self._memory_bytes)))
        kept.tell()

    async def end(self, key: str, last: int) -> None:
        kept = self._kept.get(key)
        if kept is None or kept.last is not None:
            return
        kept.last = last
        self._ended[key] = self._clock.monotonic() + self._settings.keep_s
        kept.tell()

    async def find(self, key: str) -> bytes | None:
        self._sweep()
        kept = self._kept.get(key)
        return None if kept is None else kept.about

    async def read(self, key: str, after: int, wait_s: float) -> Page:
        self._sweep()
        kept = self._find(key)
        kept.followed_until = self._clock.monotonic() + self._settings.grace_s
        if kept.last is None and kept.count <= after and wait_s > 0:
            changed = kept.changed
            try:
                async with asyncio.timeout(wait_s):
                    await changed.wait()
            except TimeoutError:
                return Page()
            kept = self._find(key)
        start = after + 1 - kept.first
        if start < 0 or (kept.last is not None and after > kept.last):
            raise Gone
        frames = kept.frames[start : start + READ_FRAMES]
        return Page(frames, end=kept.last is not None and after + len(frames) == kept.last)

    async def followed(self, key: str) -> float:
        kept = self._kept.get(key)
        return 0.0 if kept is None else max(0.0, kept.followed_until - self._clock.monotonic())

    async def forget(self, key: str) -> None:
        if key in self._kept:
            self._drop(key)

    async def run(self) -> None:
        while True:
            self._sweep()
            await self._clock.sleep(SWEEP_S)

    async def aclose(self) -> None:
        for key in list(self._kept):
            self._drop(key)

    def _find(self, key: str) -> _Kept:
        kept = self._kept.get(key)
        if kept is None:
            raise Gone
        return kept

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        while self._ended and next(iter(self._ended.values())) <= now:
            self._drop(next(iter(self._ended)))

    def _drop(self, key: str) -> None:
        kept = self._kept.pop(key)
        self._ended.pop(key, None)
        self._held -= kept.held
        kept.tell()

    def _trim(self, kept: _Kept, limit: int) -> None:
        """Lets go of the oldest frames until no more than `limit` bytes are held."""
        gone = size = 0
        while kept.held - size > limit:
            size += len(kept.frames[gone])
            gone += 1
        del kept.frames[:gone]
        kept.first += gone
        kept.held -= size
        self._held -= size

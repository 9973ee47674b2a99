"""The streams port: frames of answers in progress, kept so that a client that lost its connection can have the rest.

Here rather than in `storage`, because the api is handed the port and never imports a driver. Frames are numbered from
1; whoever read up to frame n asks for what comes after n. The way of reconnecting is that of server-sent events
(WHATWG HTML, section 9.2: `id:` lines and `Last-Event-ID`).
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

from msgspec import Meta, Struct

READ_FRAMES = 256
"""Frames that one read gives, at most."""

When = Literal["always", "on_request", "never"]


class StreamSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Which streams can be resumed, for how long, and how much of them is kept."""

    resumable: When = "on_request"
    """`on_request`: those whose caller sends `x-headgate-resumable: true`."""
    grace_s: Annotated[float, Meta(gt=0, le=3_600)] = 60.0
    """Seconds that an answer goes on while nobody follows it; then it is cancelled."""
    keep_s: Annotated[float, Meta(gt=0, le=86_400)] = 300.0
    """Seconds that an answer can be resumed after its end."""
    stream_mb: Annotated[float, Meta(gt=0, le=64)] = 4.0
    """Of a longer answer the newest part is kept."""
    memory_mb: Annotated[float, Meta(gt=0, le=65_536)] = 256.0
    """All that this process keeps of streams; in Redis it bounds only what still waits to be sent there."""
    calls: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    """Resumable streams in progress at once; more are served without ids."""
    lease_s: Annotated[float, Meta(ge=0.5, le=300)] = 10.0
    """Seconds after which the streams of a process that died are given up."""


class Page(Struct, frozen=True):
    """What came after the frame asked from. No frames and no end: nothing came while waiting."""

    frames: Sequence[bytes] = ()
    """In order, without a gap."""
    end: bool = False
    """These were the last: the answer, or the error in which it ended, is whole."""
    lost: bool = False
    """There will be no more, although the end is missing: the process that wrote it is gone."""


class Gone(Exception):
    """The stream is not known (any more), or what was asked for of it is no longer kept."""


class StreamStore(Protocol):
    """Kept streams, by key (`stream_key`). Each method is bounded in time, and raises `core.errors.Overloaded` where
    the store cannot be reached. One process writes a stream; any process reads it.
    """

    async def begin(self, key: str, about: bytes) -> None:
        """A stream with no frames yet. `about` is what a reader is told of it. Repeating it changes nothing."""
        ...

    async def append(self, key: str, first: int, frames: Sequence[bytes]) -> None:
        """Frames `first`, `first` + 1, ... Repeating it after an error adds nothing twice."""
        ...

    async def end(self, key: str, last: int) -> None:
        """Frame `last` was the last. From now on it is kept for `keep_s`. Repeating it changes nothing."""
        ...

    async def find(self, key: str) -> bytes | None:
        """What `begin` was told; None where there is no such stream."""
        ...

    async def read(self, key: str, after: int, wait_s: float) -> Page:
        """What comes after frame `after`; waits so many seconds for it where there is nothing yet. Raises `Gone`.

        Whoever reads counts as following for `grace_s` from now.
        """
        ...

    async def followed(self, key: str) -> float:
        """Seconds for which somebody still counts as following; 0: nobody does."""
        ...

    async def forget(self, key: str) -> None:
        """Removes it."""
        ...

    @property
    def kept(self) -> int:
        """Streams that this process keeps or writes."""
        ...

    @property
    def held(self) -> int:
        """Bytes of them in this process."""
        ...

    async def run(self) -> None:
        """What must go on while the server lives: leases, and what has expired. Until cancelled."""
        ...

    async def aclose(self) -> None: ...


def stream_key(tenant: str, stream: str) -> str:
    """Hex SHA-256 of both: tenants never meet, and the store's keys tell nothing."""
    return hashlib.sha256(f"{tenant}\0{stream}".encode("utf-8", "surrogatepass")).hexdigest()

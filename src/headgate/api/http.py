"""The small interface between endpoints and whatever server carries them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from headgate.core.reply import Header


class ClientGone(Exception):
    """The client closed its connection while its body was being read. Nobody is left to answer."""


class Request(Protocol):
    """A request's head, and its body on demand. Header names are lower-case bytes."""

    method: str
    path: str
    """Percent-decoded."""
    query: str
    version: str
    """`1.1` or `1.0`."""
    headers: Sequence[Header]
    client: str
    """The peer's address, without port."""

    def header(self, name: bytes) -> bytes | None:
        """The last value sent under this name."""

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises `TooLarge` beyond `limit` bytes, `ClientGone` where it never ends."""


class Sink(Protocol):
    """Where an answer goes. `write` and `end` wait while the client is slow, so memory stays bounded."""

    @property
    def begun(self) -> bool:
        """Bytes have left: the status can no longer change."""

    @property
    def ended(self) -> bool: ...

    @property
    def gone(self) -> bool:
        """The client has closed the connection; what is written is dropped."""

    def start(self, status: int, headers: Sequence[Header]) -> None:
        """Sets status and headers. They leave with the first byte, and may be set anew until then."""

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...

    def nudge(self, data: bytes) -> None:
        """Writes `data` if that needs no waiting, else drops it. For heartbeats, from a timer."""


Handler = Callable[[Request, Sink], Awaitable[None]]

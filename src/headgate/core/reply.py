"""The reply owns every lease taken for a call and gives each back exactly once, whenever and however it ends."""

import asyncio
from collections.abc import Awaitable, Callable

from headgate.core.errors import HeadgateError
from headgate.core.events import Stream
from headgate.core.tasks import finish

Release = Callable[[], Awaitable[None] | None]
Header = tuple[bytes, bytes]

CLOSING_SECONDS = 10.0
"""How long all leases together may take to come back; after that each that still waits is cut short."""


_PRINTABLE = bytes(byte if 32 <= byte < 127 else 63 for byte in range(256))


def printable(text: str) -> bytes:
    """Fit to stand in a header: one line of ASCII, not too long."""
    return text[:1_000].encode("ascii", "replace").translate(_PRINTABLE)


class Reply:
    """A head, then either `body` (whole JSON bytes) or `stream`; the only closable thing on the request path.

    Whoever opens something for the call pushes its release with `own` before the next `await`. Closing runs the
    releases in reverse order, shielded from cancellation and bounded in time. It never raises what a release raised
    before all others have run; one that hangs is abandoned with a `TimeoutError` and the next gets its turn.
    """

    def __init__(self, closing_s: float = CLOSING_SECONDS) -> None:
        self._closing_s = closing_s
        self.status = 200
        self.headers: list[Header] = []
        self.body: bytes | None = None
        self.stream: Stream | None = None
        self._releases: list[Release] = []
        self.closed = False
        self.reason: HeadgateError | None = None
        """Why the reply ended before its answer did, for the releases to read; None where the caller left."""
        self.whole = False
        """All of the answer was sent: said by whoever fills a reply whose answer was there already."""

    def own(self, release: Release) -> None:
        if self.closed:
            raise RuntimeError("the reply is closed: nothing more can be owned by it")
        self._releases.append(release)

    async def aclose(self, reason: HeadgateError | None = None) -> None:
        """Idempotent. Raises `ExceptionGroup` of what the releases raised."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        waiting, errors = self._release_until_wait()
        if waiting is not None:
            await finish(self._release_rest(waiting, errors), self._closing_s)
        elif errors:
            raise ExceptionGroup("closing a reply", errors)

    def _release_until_wait(self) -> tuple[Awaitable[None] | None, list[Exception]]:
        """Runs synchronous releases directly: no task is needed where nothing waits."""
        errors: list[Exception] = []
        while self._releases:
            try:
                waiting = self._releases.pop()()
            except Exception as error:  # noqa: BLE001 one release must not keep the others from running
                errors.append(error)
                continue
            if waiting is not None:
                return waiting, errors
        return None, errors

    async def _release_rest(self, waiting: Awaitable[None] | None, errors: list[Exception]) -> None:
        while waiting is not None:
            try:
                await waiting
            except asyncio.CancelledError:  # the time is up (`finish` cancels again and again): what is left still runs
                errors.append(TimeoutError("a release took too long and was abandoned"))
            except Exception as error:  # noqa: BLE001 as above
                errors.append(error)
            waiting, more = self._release_until_wait()
            errors.extend(more)
        if errors:
            raise ExceptionGroup("closing a reply", errors)

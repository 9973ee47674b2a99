"""The reader's side of one request: new tokens as they come, merged when the reader is slow."""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from headgate.core.errors import HeadgateError
from headgate.engine.wire import Delta


class Generation:
    """An async iterator of `Delta`, choices interleaved; ends when every choice has finished or was cancelled.

    Deltas that wait for the reader are merged by choice, so at most one per choice waits, and its size is bounded by
    the tokens that were asked for. Raises `HeadgateError` if the engine fails meanwhile. Close it, or tokens are drawn
    for nobody.
    """

    def __init__(self, request: int, choices: int, cancel: Callable[[int, int | None], None]) -> None:
        self.request = request
        self._open = set(range(choices))
        self._pending: dict[int, Delta] = {}
        self._accepted = False
        self._error: HeadgateError | None = None
        self._cancel = cancel
        self._wake: asyncio.Future[None] | None = None

    @property
    def open(self) -> int:
        """Choices that are still being generated."""
        return len(self._open)

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> Delta:
        while not self._pending:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            await self._news()
        return self._pending.pop(next(iter(self._pending)))

    async def accepted(self) -> None:
        """Returns when the engine has compiled the request's grammar; raises what it has against it."""
        while not self._accepted:
            if self._error is not None:
                raise self._error
            await self._news()

    def cancel(self, choice: int) -> None:
        """Ends one choice: nothing more of it will come."""
        self._pending.pop(choice, None)
        if choice in self._open:
            self._open.discard(choice)
            self._cancel(self.request, choice if self._open else None)

    def close(self) -> None:
        """Ends all choices; idempotent. The engine stops within one step."""
        self._pending.clear()
        if self._open:
            self._open.clear()
            self._cancel(self.request, None)
        self._notify()

    def accept(self) -> None:
        """Called by the client."""
        self._accepted = True
        self._notify()

    def receive(self, delta: Delta) -> None:
        """Called by the client for each delta of this request."""
        if delta.choice not in self._open:
            return  # it was cancelled while this was on its way
        if delta.finish is not None:
            self._open.discard(delta.choice)
        waiting = self._pending.get(delta.choice)
        self._pending[delta.choice] = delta if waiting is None else _merged(waiting, delta)
        self._notify()

    def fail(self, error: HeadgateError) -> None:
        """Called by the client: what has come can still be read, then the error is raised."""
        if self._open:
            self._open.clear()
            self._error = error
            self._notify()

    async def _news(self) -> None:
        self._wake = asyncio.get_running_loop().create_future()
        await self._wake

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _merged(first: Delta, second: Delta) -> Delta:
    """The first, grown in place: nobody else holds it, and so a reader that is slow for long costs no copies."""
    first.tokens.extend(second.tokens)
    if first.scores is not None and second.scores is not None:
        first.scores.extend(second.scores)
    return first if second.finish is None else replace(first, finish=second.finish)

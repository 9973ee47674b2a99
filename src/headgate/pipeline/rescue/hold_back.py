"""`hold_back`: the beginning of a stream is kept for a moment, so that a failure in it can be mended unseen."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from headgate.core.clock import Clock
from headgate.core.events import Event, Finish, Stream
from headgate.core.rules import HoldBack
from headgate.core.tasks import Tasks
from headgate.core.usage import Usage
from headgate.pipeline.rescue.rescue import close

HELD_BYTES_MAX = 256 * 1024
"""More is never held, whatever the rule says."""
_EVENT_BYTES = 128


class _End:
    pass


_END = _End()


async def hold_back(stream: Stream, rule: HoldBack, clock: Clock) -> tuple[list[Event | bytes], Stream]:
    """The first items, and the stream of those after them.

    At least one item (none only where the stream is empty), then until there are `rule.tokens` pieces or `rule.ms` have
    passed since the first, what comes first; a frame counts as a piece. Raises what the stream raises. The stream is
    given back as it is, unless it was just waited for when the time was over.
    """
    item = await anext(stream, _END)
    if not rule.tokens and rule.ms <= 0:
        return ([] if isinstance(item, _End) else [item]), stream
    held: list[Event | bytes] = []
    count = _Count(rule)
    if rule.ms <= 0:
        while not isinstance(item, _End):
            held.append(item)
            if count.enough(item):
                break
            item = await anext(stream, _END)
        return held, stream
    tasks = Tasks(limit=2)
    pull: asyncio.Task[Event | bytes | _End] | None = None
    try:
        timer = tasks.spawn(clock.sleep(rule.ms / 1000))
        while not isinstance(item, _End):
            held.append(item)
            if count.enough(item):
                break
            pull = tasks.spawn(_pull(stream))
            await asyncio.wait({pull, timer}, return_when=asyncio.FIRST_COMPLETED)
            if not pull.done():
                timer.cancel()
                return held, _Rest(pull, stream)
            item = pull.result()
    except BaseException:
        await tasks.aclose()
        raise
    timer.cancel()
    return held, stream


class _Count:
    """How much is held."""

    def __init__(self, rule: HoldBack) -> None:
        self._tokens = rule.tokens
        self._timed_only = not rule.tokens and rule.ms > 0
        self._room = HELD_BYTES_MAX

    def enough(self, item: Event | bytes) -> bool:
        if isinstance(item, bytes):
            self._tokens -= item.count(b"\n\n")
            self._room -= len(item)
        elif not isinstance(item, Finish | Usage):
            self._tokens -= 1
            self._room -= _EVENT_BYTES
        return self._room <= 0 or (self._tokens <= 0 and not self._timed_only)


class _Rest:
    """A stream whose next item is being waited for already."""

    def __init__(self, pull: "asyncio.Task[Event | bytes | _End]", stream: Stream) -> None:
        self._pull: asyncio.Task[Event | bytes | _End] | None = pull
        self._stream = stream

    def __aiter__(self) -> "_Rest":
        return self

    async def __anext__(self) -> Event | bytes:
        pull, self._pull = self._pull, None
        if pull is None:
            return await anext(self._stream)
        item = await pull
        if isinstance(item, _End):
            raise StopAsyncIteration
        return item

    async def aclose(self) -> None:
        """Ends the waiting, and the stream."""
        pull, self._pull = self._pull, None
        if pull is not None and not pull.done():
            pull.cancel()
            await asyncio.wait({pull})
        await close(self._stream)


def _pull(stream: Stream) -> Coroutine[Any, Any, Event | bytes | _End]:
    async def pull() -> Event | bytes | _End:
        return await anext(stream, _END)

    return pull()

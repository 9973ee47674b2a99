"""Leads the rescue of a stream: which error may be mended, which way is tried next, when it is given up."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from headgate.core.call import Call
from headgate.core.errors import Bug, HeadgateError
from headgate.core.events import Event, Stream
from headgate.core.faults import blame, classify, final
from headgate.core.rules import Way
from headgate.core.tasks import finish
from headgate.pipeline.rescue.carry_on import CarryOn, choices, text_to_continue
from headgate.pipeline.rescue.onward import Onward
from headgate.pipeline.rescue.replay import Diverged, Replay
from headgate.pipeline.rescue.sent import Sent

CLOSING_SECONDS = 5.0
ATTEMPTS_MAX = 16
"""For one stream. What is affordable is for `Another` to say; this bounds what it forgot."""
BURST = 32
"""Items of another answer in a row, before everybody else's turn: while they are only checked nobody waits for them."""

Another = Callable[[Way, str], Awaitable[Stream | None]]
"""Opens one more attempt and gives its metered stream, from its first item.

For `replay` the call is sent as it was (the text is empty). For `continue` it is what `core.ports.Continues.continued`
of the chosen backend makes of it and the text; targets for which that is None are passed over. None where no more
attempt is allowed or possible. Raises `HeadgateError` where the attempt failed before its beginning.
"""


Over = Callable[[HeadgateError | None], None]
"""None where the caller has the whole answer, else the error that it was told."""


def mendable(error: HeadgateError) -> bool:
    """Whether another attempt may go on where this error broke a stream: the upstream failed, stalled or is full."""
    if isinstance(error, Bug) or final(error) or blame(error) == "caller":
        return False
    return classify(error) in {"upstream", "timeout", "overload"}


async def rescued(
    first: Stream, call: Call, ways: Sequence[Way], another: Another, over: Over = lambda _: None
) -> AsyncGenerator[Event | bytes]:
    """The stream. Where it breaks after its beginning was sent, it goes on from another attempt, by `ways` in order.

    Raises the error that broke it where none helps: it never ends as if it were complete. Closing it closes the
    attempt that is under way. `over` hears how it ended, where it broke.
    """
    sent = Sent(call.include_usage)
    add = sent.add
    try:
        async for item in first:
            add(item)
            yield item
        return
    except HeadgateError as error:
        broken = error
    except BaseException:
        await close(first)
        raise
    await close(first)
    rest = _mended(broken, _Search(call, ways, another, sent), sent)
    try:
        async for item in rest:
            yield item
        over(None)
    except HeadgateError as error:
        over(error)
        await close(rest)
        raise
    except BaseException:
        await close(rest)
        raise


async def _mended(broken: HeadgateError, search: "_Search", sent: Sent) -> AsyncGenerator[Event | bytes]:
    """What comes after the break. Raises the latest error that broke what the caller was given."""
    while not search.over(broken):
        found = await search.next()
        if found is None:
            raise broken
        stream, onward = found
        flows, row = False, 0
        try:
            async for item in stream:
                for new in onward.feed(item):
                    flows = True
                    sent.add(new)
                    yield new
                row += 1
                if row % BURST == 0:
                    await asyncio.sleep(0)
            onward.end()
            return
        except Diverged:
            search.rule_out()
        except HeadgateError as error:
            if flows:
                broken = error
            elif not search.bear(error):
                raise broken from error
        except BaseException:
            await close(stream)
            raise
        await close(stream)


class _Search:
    """Which way is next."""

    def __init__(self, call: Call, ways: Sequence[Way], another: Another, sent: Sent) -> None:
        self._call = call
        self._ways = list(ways)
        self._another = another
        self._sent = sent
        self._left = ATTEMPTS_MAX
        self._choices = choices(call)
        self._in_hand = 1

    def over(self, broken: HeadgateError) -> bool:
        """The caller has the whole answer, only its marks are missing. Raises `broken` where nothing may be tried."""
        self._sent.fold()
        if not mendable(broken):
            raise broken
        if self._sent.complete(self._choices):
            return True
        if self._sent.lost:
            raise broken
        return False

    async def next(self) -> tuple[Stream, Onward] | None:
        """An attempt that has begun. None: there is none left, or none would help."""
        sent = self._sent
        while self._ways and self._left > 0:
            way, self._in_hand = self._ways[0], 1
            if sent.silent:  # nothing to check, nothing to continue: any answer is as good as the first
                way, self._in_hand = "replay", len(self._ways)
            text = "" if way == "replay" else text_to_continue(self._call, sent)
            if text is None:
                self.rule_out()
                continue
            self._left -= 1
            try:
                stream = await self._another(way, text)
            except HeadgateError as error:
                if not self.bear(error):
                    return None
                continue
            if stream is None:
                self.rule_out()
                continue
            follower = Replay(sent) if way == "replay" else CarryOn(text, sent.tokens)
            return stream, Onward(follower, sent, self._call)
        return None

    def rule_out(self) -> None:
        """The way in hand leads nowhere: the next."""
        del self._ways[: self._in_hand]

    def bear(self, error: HeadgateError) -> bool:
        """Whether something may still be tried after an attempt that gave nothing new.

        What is refused for its content is not shopped around.
        """
        if mendable(error):
            return True
        if final(error) or isinstance(error, Bug):
            return False
        kind = classify(error)
        if kind in {"bad_request", "context_length", "overload"}:
            self.rule_out()
        return kind != "content_policy"


async def close(stream: Stream) -> None:
    """Ends a stream's work, whoever is cancelled meanwhile."""
    closing = getattr(stream, "aclose", None)
    if closing is not None:
        await finish(closing(), CLOSING_SECONDS)

"""One timer for a whole attempt, where a scope around each piece of its answer would cost more than passing it on."""

import asyncio

from headgate.core.errors import HeadgateError, UpstreamTimeout


class Alarm:
    """Cancels whoever waits for the attempt when it rings: at the deadline, or earlier with `ring`.

    `listen` before each wait, `waiter = None` after it. `error` says why it rang.
    """

    __slots__ = ("_cancellations", "_timer", "error", "waiter")

    def __init__(self, seconds: float) -> None:
        self.error: HeadgateError | None = None
        self.waiter: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._timer = asyncio.get_running_loop().call_later(seconds, self._too_late)

    def _too_late(self) -> None:
        self.ring(
            UpstreamTimeout(
                "The call's deadline passed before the answer was complete. Allow more time with x-headgate-timeout-s.",
                code="deadline_exceeded",
            )
        )

    def ring(self, error: HeadgateError) -> None:
        if self.error is not None:
            return
        self.error = error
        self._timer.cancel()
        if self.waiter is not None:
            self.waiter.cancel()

    def listen(self) -> None:
        """The running task waits from now on. Raises what it rang for, if it rang before."""
        if self.error is not None:
            raise self.error
        self.waiter = waiter = asyncio.current_task()
        if waiter is not None:
            self._cancellations = waiter.cancelling()  # whoever else cancels it from now on means the task itself

    def taken_back(self) -> HeadgateError | None:
        """For a wait that was cancelled: why it rang, where the cancellation was the alarm's alone.

        It ends with this, as `asyncio.timeout` does it.
        """
        waiter, self.waiter = self.waiter, None
        if self.error is None or waiter is None or waiter.uncancel() > self._cancellations:
            return None
        return self.error

    def stop(self) -> None:
        self.waiter = None
        self._timer.cancel()

"""The protocols by which rooms are handed what stands beside or below them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct

from headgate.core.call import Call
from headgate.core.events import Stream
from headgate.core.reply import Header, Reply
from headgate.core.target import Target
from headgate.core.usage import Usage


class ModelInfo(Struct, frozen=True):
    """A model as a backend lists it."""

    id: str
    created: int = 0
    owned_by: str = ""
    context_length: int | None = None


class Health(Struct, frozen=True):
    """What a probe found. `detail` is one line for people."""

    ok: bool
    detail: str
    latency_ms: float | None = None


class Progress(Struct):
    """What an answer has consumed so far, kept by its backend; read by the meter when an answer ends early."""

    input_tokens: int = 0
    output_tokens: int = 0
    exact: bool = False
    """True where the backend counts tokens itself rather than frames."""


class Answer:
    """What a backend gives for a call: `body` (whole JSON in the caller's dialect) or `stream`.

    `usage` is set with `body`. `aclose` ends the upstream's work and gives the connection back; idempotent.
    """

    def __init__(
        self,
        *,
        body: bytes | None = None,
        stream: Stream | None = None,
        usage: Usage | None = None,
        progress: Progress | None = None,
        headers: Sequence[Header] = (),
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.body = body
        self.stream = stream
        self.usage = usage
        self.progress = progress or Progress()
        self.headers = headers
        """Upstream headers worth passing on, lower-case names."""
        self._close = close

    async def aclose(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            await close()


class Backend(Protocol):
    """A provider or model server. `open` raises `core.errors.HeadgateError` and nothing else but cancellation.

    `open` returns once the upstream has accepted the call: for streams, after its head. Cancelling `open`, or closing
    the answer, ends the upstream's work.
    """

    name: str
    kind: str

    async def open(self, call: Call, target: Target) -> Answer: ...

    async def models(self) -> Sequence[ModelInfo]: ...

    async def probe(self) -> Health: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class CountsTokens(Protocol):
    """What a backend that has its model's tokenizer can do besides."""

    def count_input(self, call: Call) -> int | None:
        """The prompt's exact tokens; None where counting would take too long, or the call makes no sense."""


@runtime_checkable
class Continues(Protocol):
    """What a backend can do besides whose servers go on with an answer that they are given the beginning of."""

    def continued(self, call: Call, target: Target, text: str) -> Call | None:
        """The call to send so that the model goes on after `text`; None where it would not.

        The maximum of its tokens is less what the text has, roughly.
        """


Ask = Callable[[Call], Awaitable[Reply]]
"""How rooms that need a model ask for one: through the whole request path, as any caller."""

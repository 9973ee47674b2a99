"""Messages between the gateway's process and the engine's: MessagePack, each behind its length in four bytes.

Nothing is pickled, and each side decodes only the types named here. The channel is a socket pair that both processes
inherit: when either dies, the other reads the end of the stream.
"""

import msgspec
from msgspec import Struct

from headgate.engine.encoder_wire import Encode, Encoded, EncoderFacts
from headgate.engine.limits import Limits
from headgate.engine.metrics import EngineStats, Timings
from headgate.engine.plan import NOBODY, SamplingParams, Score, Share
from headgate.engine.settings import EngineSettings

MAX_FRAME_BYTES = 256 * 2**20
LENGTH_BYTES = 4


class Load(Struct, frozen=True, tag="load"):
    """The first message: which model to serve."""

    folder: str
    settings: EngineSettings


class Submit(Struct, frozen=True, tag="submit"):
    """One request: `choices` sequences for each prompt, numbered on from prompt to prompt."""

    request: int
    prompts: tuple[tuple[int, ...], ...]
    params: SamplingParams
    max_tokens: int
    choices: int = 1
    grammar: str | None = None
    """What the answers are held to; with one, the worker says `Accepted` or `Refusal`."""
    share: Share = NOBODY


class Cancel(Struct, frozen=True, tag="cancel"):
    """Ends one choice of a request, or all (None)."""

    request: int
    choice: int | None = None


ToWorker = Load | Submit | Cancel | Encode


class Loading(Struct, frozen=True, tag="loading"):
    """How far the start has come: sent when a phase begins and a few times a second within it, before `Ready`."""

    phase: str
    """As in `Ready.phases`."""
    done: int = 0
    """Bytes read of `total`; both are 0 in phases that read none."""
    total: int = 0


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded and has generated a token. `phases`: seconds each part of the start took."""

    limits: Limits
    eos_ids: tuple[int, ...]
    phases: dict[str, float]
    grammar: bool = False
    """Answers can be held to grammars."""
    encoder: EncoderFacts | None = None
    """Set where the model is an encoder: it then takes `Encode`, and no `Submit`."""


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The folder cannot be served; starting again would not help."""

    message: str


class Refusal(Struct, frozen=True, tag="refused"):
    """A request that the worker would not take, and whether the caller is to blame."""

    request: int
    message: str
    bad_call: bool


class Accepted(Struct, frozen=True, tag="accepted"):
    """A request whose grammar has been compiled."""

    request: int


class Delta(Struct, frozen=True, array_like=True):
    """New tokens of one choice. `finish` is "stop", "length" or "failed" (its grammar) on the last."""

    request: int
    choice: int
    tokens: list[int]
    scores: list[Score] | None = None
    finish: str | None = None
    cached_tokens: int | None = None
    """With a choice's first tokens: how many of its prompt's were found computed."""


class Report(Struct, frozen=True, tag="report", omit_defaults=True):
    """All outputs of one step, and how the engine stands after it."""

    deltas: list[Delta]
    stats: EngineStats
    timings: Timings | None = None
    """Now and then (`worker/observe.py`): for the whole life of the process so far."""


FromWorker = Loading | Ready | LoadFailed | Refusal | Accepted | Report | Encoded

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_to_worker(body: bytes) -> ToWorker:
    return _to_worker.decode(body)


def decode_from_worker(body: bytes) -> FromWorker:
    return _from_worker.decode(body)


class Frames:
    """Cuts a byte stream into messages; sans I/O. Raises `ValueError` for a length over the limit."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        frames: list[bytes] = []
        at = 0
        while len(self._buffer) - at >= LENGTH_BYTES:
            length = int.from_bytes(self._buffer[at : at + LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a message claims {length} bytes; the limit is {MAX_FRAME_BYTES}")
            end = at + LENGTH_BYTES + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(self._buffer[at + LENGTH_BYTES : end]))
            at = end
        del self._buffer[:at]
        return frames

"""The worker's loop: take in messages, plan a step, compute it, report it.

One thread. Messages are read before every step, so a cancel frees its blocks within one step; all outputs of a step
leave in one message. An exception here ends the process: the client fails what was in flight and starts another.
"""

import socket
from pathlib import Path

from headgate.core.clock import Clock
from headgate.engine import wire
from headgate.engine.channel import Channel, ParentGone
from headgate.engine.encoding.loading import load_encoder
from headgate.engine.encoding.work import work as encode
from headgate.engine.errors import ModelFolderError
from headgate.engine.models.encoder_spec import is_encoder
from headgate.engine.worker.loading import load
from headgate.engine.worker.work import Worker

SIGN_OF_LIFE_S = 1.0
"""While nothing runs because grammars are being compiled, which may take its time."""


def serve(socket: socket.socket, clock: Clock, started: float) -> None:
    """Loads what the first message names, then works until the parent closes the channel."""
    channel, imported = Channel(socket), clock.monotonic() - started
    try:
        first, *rest = channel.receive(wait=True)
        if not isinstance(first, wire.Load):
            raise TypeError(f"the first message must be Load, not {type(first).__name__}")
        folder, phases = Path(first.folder), {"import": imported}
        try:
            if is_encoder(folder):
                encoder, ready = load_encoder(folder, first.settings, clock, phases, channel.send)
                channel.send(ready)
                encode(channel, encoder, clock, rest)
            else:
                worker, ready = load(folder, first.settings, clock, phases, channel.send)
                try:
                    channel.send(ready)
                    _work(channel, worker, rest)
                finally:
                    worker.close()
        except ModelFolderError as error:
            channel.send(wire.LoadFailed(str(error)))
    except ParentGone:
        return


def _work(channel: Channel, worker: Worker, messages: list[wire.ToWorker]) -> None:
    while True:
        for message in messages:
            match message:
                case wire.Submit():
                    worker.submit(message)
                case wire.Cancel():
                    worker.cancel(message)
                case _:
                    raise TypeError(f"a decoder is not sent {type(message).__name__} here")
        worker.go_on()
        for answer in worker.answers:
            channel.send(answer)
        worker.answers.clear()
        # Also where nothing was drawn: every step, and every message, is a sign of life (`front/watch.py`).
        channel.send(worker.report())
        if worker.busy or worker.compiled is None:
            messages = channel.receive(wait=not worker.busy)
        else:
            channel.wait(worker.compiled, SIGN_OF_LIFE_S)
            messages = channel.receive(wait=False)

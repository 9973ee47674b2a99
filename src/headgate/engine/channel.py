"""The worker's end of the socket to the gateway's process."""

import select
import socket
from typing import Protocol

from headgate.engine import wire

RECEIVE_BYTES = 2**18


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class ParentGone(Exception):
    """The channel is closed: nobody is left to work for."""


class Channel:
    """The worker's end of the socket."""

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket
        self._frames = wire.Frames()

    def wait(self, other: HasFileno, at_most_s: float) -> None:
        """Until a message, or the end of the stream, or something in `other` can be read; or so long."""
        select.select((self._socket, other), (), (), at_most_s)

    def receive(self, *, wait: bool, at_most_s: float | None = None) -> list[wire.ToWorker]:
        """What has come; with `wait`, at least one message, unless `at_most_s` go by without.

        Raises `ParentGone` at the end of the stream.
        """
        messages: list[wire.ToWorker] = []
        while True:
            self._socket.settimeout(at_most_s if wait and not messages else 0.0)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except (BlockingIOError, TimeoutError):
                return messages
            except ConnectionError as error:
                raise ParentGone from error
            if not data:
                raise ParentGone
            messages.extend(wire.decode_to_worker(frame) for frame in self._frames.feed(data))

    def send(self, message: wire.FromWorker) -> None:
        self._socket.setblocking(True)
        try:
            self._socket.sendall(wire.encode(message))
        except ConnectionError as error:
            raise ParentGone from error

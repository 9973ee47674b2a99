"""The worker's end of the socket to the gateway's process."""

import socket

from headgate.engine import wire

RECEIVE_BYTES = 2**18


class ParentGone(Exception):
    """The channel is closed: nobody is left to work for."""


class Channel:
    """The worker's end of the socket."""

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket
        self._frames = wire.Frames()

    def receive(self, *, wait: bool) -> list[wire.ToWorker]:
        """What has come; with `wait`, at least one message. Raises `ParentGone` at the end of the stream."""
        messages: list[wire.ToWorker] = []
        while True:
            self._socket.setblocking(wait and not messages)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
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

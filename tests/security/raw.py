"""Attacks as bytes, and what came back."""

import json
from typing import Any

from tests.api.house import Answer, Wire
from tests.live import Live


def send(live: Live, data: bytes) -> bytes:
    """Everything the server says to these bytes until it closes; our side is ended after them."""
    with Wire(live.port) as wire:
        try:
            for place in range(0, len(data), 2**20):
                wire.send(data[place : place + 2**20])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has refused us already, and may have said why
        try:
            return wire.rest()
        except ConnectionResetError:
            return b""


def statuses(said: bytes) -> list[int]:
    """The status of each answer in what the server said."""
    return [int(part[:3]) for part in said.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"100")]


def ask(live: Live, method: str, path: str, body: object = None, key: str | None = None, **headers: str) -> Answer:
    with Wire(live.port) as wire:
        wire.request(method, path, body, key, **headers)
        return wire.answer(method)


def chat(live: Live, body: object, key: str | None = None) -> Answer:
    return ask(live, "POST", "/v1/chat/completions", body, key or live.key)


def post_head(live: Live, *lines: str | bytes) -> bytes:
    """The head of a chat call with a good key, and the given header lines as they are."""
    head = [b"POST /v1/chat/completions HTTP/1.1", b"Host: a", b"Authorization: Bearer " + live.key.encode()]
    return b"\r\n".join([*head, *(line.encode("latin-1") if isinstance(line, str) else line for line in lines)])


def hello(**fields: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": "hi"}], **fields}


HELLO = json.dumps(hello()).encode()

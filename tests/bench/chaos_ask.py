"""Asks a chaos upstream over a raw socket, and looks at the bytes."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.upstream.chaos import Chaos, Heard, listen, post, said

MESSAGES = [{"role": "user", "content": "tell me of the river"}]
TEXT = said(MESSAGES)
PATHS = {"chat": "/v1/chat/completions", "text": "/v1/completions", "anthropic": "/v1/messages"}


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def returned(port: int) -> None:
    """Waits until the port takes connections again."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            return connected(port).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise AssertionError("it never came back")


@dataclass(frozen=True)
class Asker:
    """Sends one request per connection; `seconds` is how long silence lasts until the connection counts as open."""

    up: Chaos

    def __call__(
        self,
        order: str,
        *,
        stream: bool = True,
        dialect: str = "chat",
        seconds: float = 5.0,
        most: int = 1 << 24,
        **body: Any,
    ) -> Heard:
        given: dict[str, Any] = {"model": "chaos", "messages": MESSAGES, "stream": stream, **body}
        if dialect == "text":
            given["prompt"] = given.pop("messages")[-1]["content"]
        if dialect == "anthropic":
            given.setdefault("max_tokens", 1000)
        with connected(self.up.port) as peer:
            peer.sendall(post(given, PATHS[dialect], {"x-chaos": order}))
            return listen(peer, seconds, most)


def data(event: bytes) -> bytes:
    """The data of an event."""
    return event.partition(b"data: ")[2]


def values(heard: Heard) -> list[Any]:
    """The JSON of all events, without the terminal one."""
    return [json.loads(data(event)) for event in heard.events if data(event) not in {b"[DONE]", b""}]


def spoken(heard: Heard) -> str:
    """The text that came, of a stream or a body, in either dialect."""
    if b"text/event-stream" not in heard.head:
        return _whole(json.loads(heard.body))
    parts = []
    for value in values(heard):
        parts += [
            choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in value.get("choices", [])
        ]
        if value.get("type") == "content_block_delta":
            parts.append(value["delta"].get("text", ""))
    return "".join(parts)


def _whole(value: Any) -> str:
    if value.get("type") == "message":
        return "".join(part.get("text", "") for part in value["content"])
    choice = value["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


Check = Callable[[Asker], None]
CHECKS: dict[str, Check] = {}
"""What each fault looks like on the wire, by its name."""


def check(name: str) -> Callable[[Check], Check]:
    def keep(made: Check) -> Check:
        CHECKS[name] = made
        return made

    return keep

"""The official Python SDK in both its forms behind one face, so that each test runs on both."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from openai import AsyncOpenAI, OpenAI

DEMO = "headgate-demo"
HELLO: list[Any] = [{"role": "user", "content": "Who are you?"}]


class Sdk:
    """`client` is `OpenAI` or `AsyncOpenAI`; `call` waits for either."""

    def __init__(self, make: Callable[..., Any], base_url: str, key: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = make(base_url=base_url, api_key=key, max_retries=0, timeout=60.0)

    def call(self, result: Any) -> Any:
        return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

    def chat(self, **fields: Any) -> Any:
        return self.call(self.client.chat.completions.create(**{"model": DEMO, "messages": HELLO, **fields}))

    def pieces(self, stream: Any) -> Iterator[Any]:
        """The stream's items, one by one."""
        if isinstance(self.client, OpenAI):
            yield from stream
            return
        items = stream.__aiter__()
        while True:
            try:
                yield self.loop.run_until_complete(items.__anext__())
            except StopAsyncIteration:
                return

    def text(self, stream: Any) -> str:
        return "".join(
            piece.choices[0].delta.content or "" for piece in self.pieces(stream) if piece.choices
        )  # fmt: skip

    def close(self) -> None:
        self.call(self.client.close())
        self.loop.close()


FORMS: dict[str, Callable[..., Any]] = {"sync": OpenAI, "async": AsyncOpenAI}

"""A model server that counts how often it ran each prompt, and says in each answer which run it was.

    python -m tests.idempotency.upstream        # prints {"port": N} on its first line

`GET /runs` gives the counts, by the text of the last user message (or the input, or the prompt).
"""

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.upstream import server
from tests.upstream.exchange import Exchange
from tests.upstream.process import ROOT, get

_number = itertools.count(1)


class Counting(server.Server):
    def __init__(self) -> None:
        super().__init__(["ok"], {})
        self.runs: Counter[str] = Counter()

    async def get(self, exchange: Exchange, path: str) -> bool:
        if path == "/runs":
            await exchange.json(self.runs)
            return True
        return await super().get(exchange, path)

    async def answer(self, exchange: Exchange, reader: asyncio.StreamReader) -> bool:
        request: dict[str, Any] = exchange.request
        text = str(request["messages"][-1]["content"] if "messages" in request else request.get("input"))
        text = str(request.get("prompt", text))
        self.runs[text] += 1
        told = f"{text} run {next(_number)}"
        if "messages" in request:
            request["messages"][-1]["content"] = told
        else:
            request["prompt"] = told
        return await super().answer(exchange, reader)


@contextlib.contextmanager
def counting() -> Iterator[str]:
    """The base URL of one."""
    command = [sys.executable, "-m", "tests.idempotency.upstream"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
    finally:
        process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def runs(base_url: str) -> dict[str, int]:
    found: dict[str, int] = get(base_url, "/runs")
    return found


if __name__ == "__main__":
    asyncio.run(server.serve(0, Counting(), False))

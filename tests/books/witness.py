"""The fake upstream, which writes down each call as it arrives: whose it is, and the tokens its answer will report.

python -m tests.books.witness SEEN        # prints {"port": N}; a line of the file SEEN is `user prompt answer`
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tests.upstream.exchange import Exchange, honest_usage
from tests.upstream.process import ROOT
from tests.upstream.server import Server, serve


class Witness(Server):
    def __init__(self, seen: TextIO) -> None:
        super().__init__(["honest"], {})
        self._seen = seen

    async def answer(self, exchange: Exchange, reader: asyncio.StreamReader) -> bool:
        prompt, answer = honest_usage(exchange.request)
        self._seen.write(f"{exchange.request['user']} {prompt} {answer}\n")
        self._seen.flush()
        return await super().answer(exchange, reader)


@contextlib.contextmanager
def witness(seen: Path) -> Iterator[str]:
    """Yields its base URL."""
    command = [sys.executable, "-m", "tests.books.witness", str(seen)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


if __name__ == "__main__":
    with Path(sys.argv[1]).open("a") as seen:
        asyncio.run(serve(0, Witness(seen), tls=False))

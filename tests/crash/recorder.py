"""The fake upstream of `tests.upstream`, which also writes down whose calls have reached it: the truth of kill storms.

python -m tests.crash.recorder SEEN        # prints {"port": N}; each call's `user` is a line of the file SEEN
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tests.upstream.exchange import Exchange
from tests.upstream.process import ROOT
from tests.upstream.server import Server, serve


class Recorder(Server):
    def __init__(self, seen: TextIO) -> None:
        super().__init__(["ok"], {})
        self._seen = seen

    async def answer(self, exchange: Exchange, reader: asyncio.StreamReader) -> bool:
        self._seen.write(f"{exchange.request['user']}\n")
        self._seen.flush()
        return await super().answer(exchange, reader)


@contextlib.contextmanager
def recorder(seen: Path) -> Iterator[str]:
    """Yields its base URL."""
    command = [sys.executable, "-m", "tests.crash.recorder", str(seen)]
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
        asyncio.run(serve(0, Recorder(seen), tls=False))

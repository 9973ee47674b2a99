"""The fake upstream of `tests.upstream`, which also tells of any number of tokens: `huge_usage:count=N`.

python -m tests.stores.liar --port 0        # prints {"port": N}
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator

from tests.upstream.behaviours import BEHAVIOURS
from tests.upstream.exchange import Exchange, chunk, delta, whole
from tests.upstream.process import ROOT
from tests.upstream.server import main


async def huge_usage(exchange: Exchange) -> bool:
    count = exchange.number("count", 0)
    told = {"prompt_tokens": count, "completion_tokens": count, "total_tokens": 2 * count}
    if not exchange.streaming:
        return await exchange.json({**whole(exchange), "usage": told})
    await exchange.sse_head()
    for data in (delta("a"), delta("", 0, "stop"), chunk([], usage=told), b"[DONE]"):
        await exchange.piece(b"data: " + data + b"\n\n")
    return await exchange.end()


@contextlib.contextmanager
def liar() -> Iterator[str]:
    """Yields its base URL."""
    command = [sys.executable, "-m", "tests.stores.liar", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}/v1"
        finally:
            process.kill()


if __name__ == "__main__":
    BEHAVIOURS["huge_usage"] = huge_usage
    main()

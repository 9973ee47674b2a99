"""Starts the fake upstream for a test and ends it with it."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def upstream(
    *, models: str = "ok,other", headers: dict[str, str] | None = None, port: int = 0, tls: bool = False
) -> Iterator[str]:
    """Yields the base URL, such as `http://127.0.0.1:40001/v1`."""
    command = [sys.executable, "-m", "tests.upstream.server", "--port", str(port), "--models", models]
    command += ["--headers", json.dumps(headers or {})]
    command += ["--tls"] if tls else []
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        where = "https://localhost" if tls else "http://127.0.0.1"
        yield f"{where}:{json.loads(line)['port']}/v1"
    finally:
        process.kill()
        process.wait(10)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def get(base_url: str, path: str) -> Any:
    """`/stats` or `/last` of a running upstream, blocking: a few milliseconds."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + path, timeout=10) as answer:
        return json.load(answer)

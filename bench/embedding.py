"""What does computing many callers' texts together gain, at the engine and through the whole gateway?

    python -m bench.embedding [--quick] [--rounds N] [--callers 32] [--seconds 8] [--model FOLDER] [--json FILE]

Closed loop: each caller sends one short text (5 to 10 tokens, drawn at random, none twice), waits for its vector and
sends the next. The ways run in turns, in the same minutes on the same machine: texts computed one at a time, batches
of what has come meanwhile, and such batches that wait up to 2 or 5 ms for those who were just answered. No cache.

- engine: the callers are tasks of one process beside the encoder's;
- gateway: `headgate serve` over HTTP, a connection kept for each caller; keys, limits, meter and ledger included.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import report
from bench.process import cpu_seconds
from bench.subjects import KEY, Subject, await_ready
from headgate.app.inference import MINILM_PACKAGE, model_folder
from headgate.core.clock import SystemClock
from headgate.engine.encoder_wire import Text
from headgate.engine.encoding.client import EncoderClient
from headgate.engine.settings import EncoderSettings, EngineSettings

Row = dict[str, Any]
ALONE = "one at a time"
WAYS = {
    ALONE: EncoderSettings(max_batch_tokens=1, window_ms=0.0, cache_mib=0),
    "batches": EncoderSettings(window_ms=0.0, cache_mib=0),
    "batches, window 2 ms": EncoderSettings(window_ms=2.0, cache_mib=0),
    "batches, window 5 ms": EncoderSettings(window_ms=5.0, cache_mib=0),
}
CONFIG = """
discover: false
engine:
  model: {model}
  name: encoder
  settings:
    encoder: {{max_batch_tokens: {tokens}, window_ms: {window}, cache_mib: 0}}
"""
WARM_S = 1.0
FIELDS = ("texts_per_s", "p50_ms", "p99_ms", "cpu_ms")
Once = Callable[[random.Random], Awaitable[int]]
"""Sends one text; the length of the answer."""


async def closed_loop(once: Once, pids: list[int], callers: int, seconds: float, seed: int) -> Row:
    """Texts a second and latencies of those answered after the warm-up, and the CPU time of `pids` for each text."""
    begin = time.perf_counter() + WARM_S
    end = begin + seconds
    took: list[float] = []
    count = 0
    used = -cpu_seconds(pids)

    async def caller(number: int) -> None:
        nonlocal count
        rng = random.Random(seed * 1_000 + number)
        while (sent := time.perf_counter()) < end:
            await once(rng)
            count += 1
            now = time.perf_counter()
            if begin <= now <= end:
                took.append(now - sent)

    await asyncio.gather(*(caller(number) for number in range(callers)))
    used += cpu_seconds(pids)
    took.sort()
    return {
        "texts_per_s": len(took) / seconds,
        "cpu_ms": 1000 * used / count,
        "p50_ms": 1000 * statistics.median(took),
        "p99_ms": 1000 * took[int(0.99 * len(took))],
    }


def some_ids(rng: random.Random) -> list[int]:
    """As long as a search query; special tokens included."""
    return [101, *(rng.randrange(2_000, 20_000) for _ in range(rng.randint(3, 8))), 102]


async def at_engine(folder: Path, way: str, callers: int, seconds: float, seed: int) -> Row:
    client = await EncoderClient.start(folder, EngineSettings(encoder=WAYS[way]), clock=SystemClock())

    async def once(rng: random.Random) -> int:
        return len(await client.encode([Text(tuple(some_ids(rng)))]))

    try:
        row = await closed_loop(once, [client.pid or 0], callers, seconds, seed)
        stats = client.stats
        return row | {"texts_per_step": stats.texts / stats.steps, "held": stats.held_s / (seconds + WARM_S)}
    finally:
        await client.aclose()


class Connection:
    """One kept HTTP connection that sends a body and reads the answer's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader, self._writer = reader, writer
        self._head = f"POST /v1/embeddings HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"

    async def send(self, body: bytes) -> int:
        head = f"{self._head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
        found = await self._reader.readexactly(length)
        if not answer.startswith(b"http/1.1 200"):
            raise RuntimeError(found.decode())
        return length

    def close(self) -> None:
        self._writer.close()


async def at_gateway(subject: Subject, callers: int, seconds: float, seed: int) -> Row:
    connections = [
        Connection(*await asyncio.open_connection("127.0.0.1", subject.port), subject.key) for _ in range(callers)
    ]
    free = list(connections)

    async def once(rng: random.Random) -> int:
        body = {"model": "encoder", "input": some_ids(rng), "encoding_format": "base64"}
        connection = free.pop()
        try:
            return await connection.send(json.dumps(body).encode())
        finally:
            free.append(connection)

    try:
        return await closed_loop(once, subject.pids, callers, seconds, seed)
    finally:
        for connection in connections:
            connection.close()


def served(folder: Path, model: Path, way: str) -> Subject:
    home = Path(tempfile.mkdtemp(dir=folder))
    settings = WAYS[way]
    text = CONFIG.format(model=model, tokens=settings.max_batch_tokens, window=settings.window_ms)
    (home / "headgate.yaml").write_text(text)
    command = [sys.executable, "-m", "headgate.cli.main", "serve", "--port", "0", "--home", str(home)]
    command += ["--config", str(home / "headgate.yaml")]
    with (home / "log").open("ab") as file:
        given = {**os.environ, "HEADGATE_BOOTSTRAP_KEY": KEY}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=given)
    return await_ready(Subject(way, 0, process, "-"), home / "log")


def shown(rows: list[Row]) -> None:
    """Medians; gains with the least and the most, each within a round, where the machine was in one mood."""
    print("| where | way | texts/s | p50 ms | p99 ms | CPU ms/text | texts/s by one at a time | CPU by one at a time |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for where in ("engine", "gateway"):
        for way in WAYS:
            mine = [row for row in rows if (row["where"], row["way"]) == (where, way)]
            cells = [f"{statistics.median(row[field] for row in mine):.1f}" for field in FIELDS]
            for field in ("gain", "cpu_gain"):
                gains = sorted(row[field] for row in mine)
                cells.append(f"{statistics.median(gains):.2f} ({gains[0]:.2f} to {gains[-1]:.2f})")
            print(f"| {where} | {way} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.embedding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one short round: to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--model", type=Path, help="a folder; the model of the extra `embeddings` by default")
    parser.add_argument("--json", type=Path, help="write rows and facts there")
    arguments = parser.parse_args()
    model = arguments.model or model_folder(MINILM_PACKAGE)
    seconds = 3.0 if arguments.quick else arguments.seconds
    rows: list[Row] = []
    for seed in range(1 if arguments.quick else arguments.rounds):
        found: list[Row] = []
        for way in WAYS:
            row = asyncio.run(at_engine(model, way, arguments.callers, seconds, seed))
            found.append({"where": "engine", "way": way, **row})
        with tempfile.TemporaryDirectory() as folder:
            for way in WAYS:
                subject = served(Path(folder), model, way)
                try:
                    row = asyncio.run(at_gateway(subject, arguments.callers, seconds, seed))
                finally:
                    subject.close()
                found.append({"where": "gateway", "way": way, **row})
        alone = {row["where"]: row for row in found if row["way"] == ALONE}
        for row in found:
            by = alone[row["where"]]
            gains = {"gain": row["texts_per_s"] / by["texts_per_s"], "cpu_gain": by["cpu_ms"] / row["cpu_ms"]}
            rows.append({**row, "round": seed, **gains})
        print(f"round {seed + 1} done", file=sys.stderr)
    shown(rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**report.facts({}), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

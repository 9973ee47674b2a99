"""The fairness scenarios over HTTP: `headgate serve` in front of a model server of limited capacity, real tenants."""

import asyncio
import json
import random
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.fair_model import BEGIN, Seen, Tenant, jain, quantile
from bench.process import GATEWAY_CORE, LOAD_CORE, start, stop

Row = dict[str, Any]
ADMIN = "hg-bench-bootstrap-key-0123456789abcdef"
SLOTS, SERVICE_S = 10, 0.4
PEAK = SLOTS / SERVICE_S
OTHERS, FLOOD = 9, 50.0
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
START_SECONDS = 60.0
DEADLINE_S = 4.0
_CONFIG = """
engine: {{enabled: false}}
discover: false
prices: {folder}/prices.toml
admission: {{key_concurrency: 100000, key_requests_per_minute: 100000000, key_tokens_per_minute: 10000000000}}
backends:
  - {{name: mock, base_url: "http://127.0.0.1:{port}/v1", concurrency: {concurrency}, pool: {{max_connections: 4000}}}}
routes:
  - {{model: "*", targets: [{{backend: mock}}]}}
"""
_PRICES = 'version = "bench"\n[[price]]\nmodel = "mock*"\neffective = 2020-01-01\ninput = 1.0\noutput = 2.0\n'


class Rig:
    """A gateway and the model server behind it."""

    def __init__(self, port: int, upstream: int, log: Path) -> None:
        self.port = port
        self.upstream = upstream
        self.log = log
        self.keys: dict[str, str] = {}

    def admin(self, method: str, path: str, body: object) -> dict[str, Any]:
        told: dict[str, Any] = _ask(f"http://127.0.0.1:{self.port}{path}", method, body)
        return told

    def tenant(self, tenant: Tenant) -> None:
        """A project with this weight and priority, and a key of it."""
        made = self.admin("POST", "/admin/keys", {"name": tenant.name, "tenant": tenant.name})
        policy = {"weight": tenant.weight, "priority": tenant.priority}
        self.admin("PUT", f"/v1/organization/projects/{tenant.name}/policy", policy)
        self.keys[tenant.name] = made["key"]

    def slots(self, count: int) -> None:
        _ask(f"http://127.0.0.1:{self.upstream}/slots/{count}", "POST", {})


@contextmanager
def rig(folder: Path, concurrency: int | None) -> Iterator[Rig]:
    """Both processes, stopped at the end."""
    folder.mkdir(parents=True)
    server_log = folder / "upstream.log"
    server = start([sys.executable, "-m", "bench.fair_upstream", str(SLOTS), str(SERVICE_S)], LOAD_CORE, server_log)
    try:
        port = int(json.loads(_wait(server_log, '"port"'))["port"])
        (folder / "prices.toml").write_text(_PRICES)
        (folder / "headgate.yaml").write_text(
            _CONFIG.format(folder=folder, port=port, concurrency="null" if concurrency is None else concurrency)
        )
        log = folder / "log"
        command = [sys.executable, "-m", "headgate.cli.main", "serve", "--port", "0"]
        command += ["--home", str(folder), "--config", str(folder / "headgate.yaml")]
        gateway = start(command, GATEWAY_CORE, log, {"HEADGATE_BOOTSTRAP_KEY": ADMIN})
        try:
            yield Rig(int(json.loads(_wait(log, '"server.started"'))["port"]), port, log)
        finally:
            stop(gateway)
    finally:
        stop(server)


class Load:
    """Calls of some tenants for so long, the first fifth of it to warm up."""

    def __init__(self, at: Rig, tenants: Sequence[Tenant], seconds: float) -> None:
        self._at = at
        self._tenants = tenants
        self._rng = random.Random(0)
        self._warm = time.monotonic() + seconds / 5
        self._end = time.monotonic() + seconds
        self.seen = {tenant.name: Seen() for tenant in tenants}

    async def run(self) -> dict[str, Seen]:
        async with asyncio.TaskGroup() as group:
            for tenant in self._tenants:
                if tenant.rate:
                    group.create_task(self._arrivals(tenant, group))
                for _ in range(tenant.window):
                    group.create_task(self._caller(tenant))
        return self.seen

    async def _arrivals(self, tenant: Tenant, group: asyncio.TaskGroup) -> None:
        while time.monotonic() < self._end:
            await asyncio.sleep(self._rng.expovariate(tenant.rate))
            group.create_task(self._call(tenant))

    async def _caller(self, tenant: Tenant) -> None:
        while time.monotonic() < self._end:
            if not await self._call(tenant):
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * SERVICE_S)

    async def _call(self, tenant: Tenant) -> bool:
        began, seen = time.monotonic(), self.seen[tenant.name]
        first, done = await _stream(self._at.port, self._at.keys[tenant.name], tenant.deadline_s)
        if began >= self._warm and first is None:
            seen.refused += 1
        elif began >= self._warm and first is not None:
            seen.waits.append(max(0.0, first - BEGIN * SERVICE_S))
        if done and self._warm <= time.monotonic() < self._end:
            seen.good += 1
            seen.work += 1
        return done


def play(at: Rig, tenants: Sequence[Tenant], seconds: float) -> dict[str, Seen]:
    return asyncio.run(Load(at, tenants, seconds).run())


def measure(folder: Path, seconds: float) -> list[Row]:
    """All scenarios, one after the other."""
    rows: list[Row] = []
    others = [Tenant(f"other{place}", window=3) for place in range(OTHERS)]
    flood = Tenant("flood", rate=FLOOD * PEAK / (OTHERS + 1))
    weighted = [Tenant(f"w{weight:g}", weight, window=12) for weight in WEIGHTS]
    with rig(folder / "fixed", SLOTS) as at:
        for tenant in (*others, flood, *weighted):
            at.tenant(tenant)
        alone = play(at, others, seconds)
        both = play(at, [*others, flood], seconds)
        waits = [quantile([w for t in others for w in each[t.name].waits], 0.99) for each in (alone, both)]
        rows.append(
            {
                "scenario": "http, noisy",
                "alone_p99_s": waits[0],
                "flood_p99_s": waits[1],
                "ratio": waits[1] / waits[0],
                "refused": sum(both[tenant.name].refused for tenant in others),
                "flood_refused": both["flood"].refused,
            }
        )
        seen = play(at, weighted, seconds)
        served = {tenant.name: seen[tenant.name].work for tenant in weighted}
        per = [served[tenant.name] / tenant.weight for tenant in weighted]
        rows.append({"scenario": "http, shares", "jain": jain(per), "shares": served})
    with rig(folder / "found", None) as at:
        by_load = {}
        for load in (0.9, 1.0, 2.0):
            tenants = [Tenant(f"t{place}", rate=load * PEAK / 4, deadline_s=DEADLINE_S) for place in range(4)]
            if not at.keys:
                for tenant in tenants:
                    at.tenant(tenant)
            got = play(at, tenants, seconds)
            by_load[load] = sum(each.work for each in got.values()) / (seconds * 4 / 5) / PEAK
        rows.append({"scenario": "http, goodput", "by_load": {str(load): each for load, each in by_load.items()}})
        rows[-1]["at_2x"] = by_load[2.0] / max(by_load.values())
    return rows


async def _stream(port: int, key: str, deadline_s: float) -> tuple[float | None, bool]:
    """Seconds to the first piece (None where it was refused), and whether it ended in time."""
    body = json.dumps({"model": "mock", "stream": True, "messages": [{"role": "user", "content": "Say it."}]}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
        f"x-headgate-timeout-s: {deadline_s}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    began, first = time.monotonic(), None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(deadline_s + 10):
            writer.write(head.encode() + body)
            if b" 200 " not in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]:
                return None, False
            piece = await reader.readuntil(b"data: ")
            first = time.monotonic() - began
            piece += await reader.read()
            return first, b"data: [DONE]" in piece and time.monotonic() - began <= deadline_s
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
        return first, False
    finally:
        writer.close()


def _ask(url: str, method: str, body: object) -> Any:
    headers = {"content-type": "application/json", "authorization": f"Bearer {ADMIN}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def _wait(log: Path, word: str) -> str:
    """The first whole line of a log with this word in it. Raises `RuntimeError` with the log."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        for line in log.read_text().splitlines(keepends=True):
            if word in line and line.endswith("\n"):
                return line
        time.sleep(0.05)
    raise RuntimeError(f"did not start:\n{log.read_text()[-2000:]}")

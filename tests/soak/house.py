"""A gateway with everything on, before two faulty replicas and a good fallback."""

import contextlib
import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.live import Live, serving
from tests.upstream.chaos import ROOT, Chaos, chaos

TOKENS = 6
"""Of each answer."""
INPUT, OUTPUT = 1_237, 4_319
"""Nanodollars a token."""
PRICES = 'version = "soak"\n[[price]]\nmodel = "*"\neffective = 2020-01-01\ninput = 1.237\noutput = 4.319\n'
CONFIG = """
discover: false
engine: {{enabled: false}}
log: {{level: info}}
prices: {folder}/prices.toml
admission: {{concurrency: 5000, key_concurrency: 5000, key_requests_per_minute: 100000000,
  key_tokens_per_minute: 100000000000}}
streams: {{keep_s: {keep_s}, grace_s: 5}}
health: {{breaker: {{open_s: 0.5, open_max_s: 2, pause_s: 0.2, pause_max_s: 1}}}}
retries: {{backoff_s: 0.05, ratio: 0.5}}
server: {{grace_s: {grace_s}, head_s: 10}}
backends:
  - {{name: up, prefill: vllm, pool: {{idle_s: 2}}, replicas: [{{base_url: "{one}"}}, {{base_url: "{two}"}}]}}
  - {{name: steady, base_url: "{steady}", pool: {{idle_s: 2}}}}
rules:
  timeouts: {{first_token_s: 10, between_tokens_s: 2, total_s: 60}}
  hedge: {{quantile: 0.95, min_s: 0.05, max_extra: 0.05}}
routes:
  - {{model: goes-on, targets: [{{backend: up}}], fallbacks: [{{backend: steady}}]}}
  - model: again
    targets: [{{backend: up}}]
    fallbacks: [{{backend: steady}}]
    rules: {{recovery: [replay], hold_back: {{tokens: 2, ms: 20}}, degraded: {{cached_s: 30}}}}
  - {{model: "*", targets: [{{backend: up}}], fallbacks: [{{backend: steady}}]}}
"""
FAULTS = {
    "cut,after=3": 8, "cut_event,after=2": 4, "cut_utf8": 2, "reset,after=1": 3, "reset_reuse": 4, "stall,after=2": 2,
    "slow_first,s=0.3": 8, "500": 4, "503": 3, "429": 3, "error_event,after=2": 4, "no_done": 3, "after_done": 3,
    "two_done": 2, "bad_json,after=2": 2, "usage_missing": 3,
}  # fmt: skip
"""How often each strikes, as parts of the faults."""


@dataclass(frozen=True)
class House:
    """What runs."""

    live: Live
    ups: tuple[Chaos, ...]
    """The two replicas and the fallback."""

    @property
    def reached(self) -> int:
        """Requests that the upstreams saw."""
        return sum(int(up.stats()["requests"]) for up in self.ups)

    @property
    def faults(self) -> dict[str, int]:
        """How often each fault struck."""
        found: dict[str, int] = {}
        for up in self.ups:
            for name, count in up.stats()["faults"].items():
                found[name] = found.get(name, 0) + count
        return found

    def keys(self, count: int) -> list[str]:
        """Of as many projects, each with a budget that nobody reaches."""
        made = []
        for number in range(count):
            name = f"tenant-{number}"
            made.append(json.loads(self.live.post("/admin/keys", {"name": name, "tenant": name})[1])["key"])
            policy = {"budgets": [{"amount": 1_000_000, "per": "total"}]}
            self.live.put(f"/v1/organization/projects/{name}/policy", policy)
        return made

    def rows(self, columns: str) -> list[tuple[Any, ...]]:
        """Of the ledger, once all is shipped."""
        status, _ = self.live.get("/admin/usage", self.live.key)
        assert status == 200
        with closing(sqlite3.connect(self.live.home / "headgate.db")) as db:
            return db.execute(f"select {columns} from ledger").fetchall()

    def settle(self, seconds: float = 30.0) -> None:
        """Until no call is in progress, here or upstream."""
        self.live.settle(seconds)
        for up in self.ups:
            up.idle(seconds)


def rules(share: float, seed: int) -> list[dict[str, Any]]:
    """All faults, this share of the requests together."""
    total = sum(FAULTS.values())
    return [
        {"fault": fault, "share": share * parts / total, "seed": seed + place}
        for place, (fault, parts) in enumerate(FAULTS.items())
    ]


@contextlib.contextmanager
def upstreams(share: float, seed: int, *options: str) -> Iterator[tuple[Chaos, ...]]:
    """Two replicas with faults, and the fallback. `options` shape every answer."""
    with ExitStack() as stack:
        ups = tuple(stack.enter_context(chaos(*options)) for _ in range(3))
        for number, up in enumerate(ups[:2]):
            up.rules(rules(share, seed + 100 * number))
        yield ups


def settings(home: Path, ups: tuple[Chaos, ...], keep_s: float, grace_s: float) -> str:
    """The gateway's configuration; its price book is written beside."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "prices.toml").write_text(PRICES)
    urls = dict(zip(("one", "two", "steady"), (up.base_url for up in ups), strict=True))
    return CONFIG.format(folder=home, keep_s=keep_s, grace_s=grace_s, **urls)


@contextlib.contextmanager
def house(folder: Path, share: float, seed: int, keep_s: float) -> Iterator[House]:
    """Faults strike `share` of the requests at the two replicas. The log has errors only, not a line a call."""
    home = folder / "home"
    with upstreams(share, seed, "--tokens", str(TOKENS)) as ups:
        config = settings(home, ups, keep_s, grace_s=30.0)
        with serving(home, config) as live:  # which waits for a line at info
            (home / "headgate.yaml").write_text(config.replace("level: info", "level: error"))
            live.process.send_signal(signal.SIGHUP)
            yield House(live, ups)


def stamp() -> dict[str, str]:
    """Which code this is, and when it ran."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": commit or "unknown", "date": datetime.now(UTC).strftime("%Y-%m-%d")}

"""What a storm goes over: one `headgate serve` before several chaos upstreams, all of them processes.

After each run `settled` asks for quiet everywhere, and `books` for one entry of the ledger per attempt.
"""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.live import Live, serving, until
from tests.storms.figures import Figures, results
from tests.storms.load import TOKENS, Heard, Source, messages
from tests.upstream.chaos import Chaos, chaos, honest

PRICES = 'version = "storms"\n[[price]]\nmodel = "*"\neffective = 2020-01-01\ninput = 1.237\noutput = 4.319\n'
INPUT, OUTPUT = 1_237, 4_319
"""Nanodollars a token."""
IDLE_S = 2.0
"""How long the gateway keeps a connection that it does not need: short, so that it can be seen that none is lost."""
FIRST_MS, RATE = 50, 200
"""How fast an honest upstream begins, and how many tokens a second it makes then."""
ZERO = {
    "headgate_calls_in_flight",
    "headgate_calls_waiting",
    "headgate_backend_calls_in_flight",
    "headgate_backend_calls_waiting",
    "headgate_streams_in_progress",
    "headgate_streams_held_bytes",
    "headgate_ledger_lost_receipts",
    "headgate_bugs_total",
}
"""Gauges of work in progress, and two counts of what must never happen."""
UNSEEN = {
    "upstream_unreachable",
    "upstream_connect_timeout",
    "upstream_pool_full",
    "upstream_pool_wait",
    "upstream_disconnected",
}
"""Attempts that ended so may not have been seen by any upstream: it took no connection, or closed it unread."""
CLOSES_UNANSWERED = ("reset_reuse", "refuse", "reset", "no_head")
FIRST_TOKEN_S = 2.0
"""The routes' first-token timeout, and that between tokens. The whole may take three times as long: a server that sends
white space for ever in place of an answer is alive, and its attempt ends only so."""
RESERVE = 20.0
"""Retries that are saved up: fewer than by default, so that a short storm shows what follows when they are spent."""
AUTH_S = 5.0
"""How long a replica rests that refuses our credential: 300 s by default, too long to see anything else afterwards."""
MAX_EXTRA = 0.05


@dataclass(frozen=True)
class Entry:
    """One row of the ledger."""

    marker: str
    backend: str
    replica: str | None
    reason: str
    outcome: str
    code: str | None
    cost_nanos: int
    estimated: bool
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Books:
    """What the ledger says of the calls whose markers have some prefix, found to agree with the upstreams."""

    entries: list[Entry]

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(entry.reason for entry in self.entries))

    @property
    def failures(self) -> dict[str, int]:
        return dict(Counter(entry.code or "" for entry in self.entries if entry.outcome == "failed").most_common())


@dataclass(frozen=True)
class Stand:
    """The processes of one run: `pool` shares the calls, `spare` is the fallback of one route."""

    live: Live
    pool: Sequence[Chaos]
    spare: Chaos
    tasks: float
    """Of the gateway before the first call."""

    @property
    def ups(self) -> list[Chaos]:
        return [*self.pool, self.spare]

    def source(self, prefix: str = "call", **more: Any) -> Source:
        return Source(self.live.port, self.live.key, prefix, **more)

    def gauges(self) -> dict[str, float]:
        """The metrics, summed over their labels."""
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(self.live.get("/metrics")[1].decode()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0.0) + sample.value
        return found

    def limits(self) -> dict[str, float]:
        """The calls that each replica is given at once."""
        families = text_string_to_metric_families(self.live.get("/metrics")[1].decode())
        found = [family for family in families if family.name == "headgate_backend_concurrency_limit"]
        return {sample.labels["backend"]: sample.value for family in found for sample in family.samples}

    def requests(self) -> int:
        """That the upstreams have seen."""
        return sum(int(up.stats()["requests"]) for up in self.ups)

    def told(self, replica: str) -> list[tuple[float, str, str]]:
        """When it changed (Unix seconds), to what, and why: by the gateway's log."""
        events = self.live.events("replica.state")
        return [(event["at"], event["state"], event["why"]) for event in events if event["replica"] == replica]

    def settled(self) -> dict[str, float]:
        """Waits until nothing is in progress anywhere: no call, no wait, no request at an upstream, no connection to
        one, no task more than before. The gauges, all of them as they were.
        """
        known: dict[str, float] = {}

        def busy() -> dict[str, float]:
            known.clear()
            known.update(self.gauges())
            found = {name: known[name] for name in ZERO if known.get(name)}
            for place, up in enumerate(self.ups):
                stats = up.stats()
                if stats["open"]:
                    found[f"open requests at {place}"] = stats["open"]
                if stats["connections"] > 1:  # that of this question
                    found[f"connections to {place}"] = stats["connections"]
            if known["headgate_tasks"] > self.tasks:
                found["tasks"] = known["headgate_tasks"] - self.tasks
            return found

        until(lambda: not busy(), 20.0 + IDLE_S, busy)
        return known

    def books(self, heard: Sequence[Heard], prefix: str = "") -> Books:
        """The ledger, of this prefix. Raises `AssertionError` unless it has exactly one entry for each attempt that an
        upstream saw, and none for another but such as never arrived; the right usage and cost for each good answer;
        and the sums that the API tells. An attempt that meets a used connection on which the server closes without
        one byte takes a new one, and arrives twice.
        """
        rows: list[Entry] = []
        seen: Counter[str] = Counter()
        for up in self.ups:
            seen.update(up.stats()["markers"])

        def read() -> bool:
            rows[:] = self._rows()
            return len(rows) == self.gauges().get("headgate_upstream_attempts_total", 0.0)

        until(read, 15.0, lambda: (len(rows), self.gauges().get("headgate_upstream_attempts_total")))
        written = Counter(row.marker for row in rows)
        unseen = Counter(row.marker for row in rows if row.code in UNSEEN)
        resent = seen - written
        closed = sum(up.stats()["faults"].get(kind, 0) for up in self.ups for kind in CLOSES_UNANSWERED)
        assert resent.total() <= closed, f"attempts without an entry: {resent.most_common(5)}"
        assert not (more := written - seen - unseen), f"entries that no upstream saw: {more.most_common(5)}"
        _check_answers(rows, heard)
        _, body = self.live.get("/admin/usage", self.live.key)
        told = json.loads(body)["data"][0]["results"][0]
        assert told["num_model_requests"] == len(rows)
        assert round(told["cost_usd"] * 1e9) == sum(row.cost_nanos for row in rows)
        return Books([row for row in rows if row.marker.startswith(f"marker-{prefix}")])

    def right(self, heard: Sequence[Heard], *, all_of_them: bool = True) -> Figures:
        """How the calls ended. Raises `AssertionError`, which tells what was tried, where an answer was wrong, an end
        had no shape, or, with `all_of_them`, a call failed.
        """
        bad = [call for call in heard if call.result != "right" and (all_of_them or call.result != "error")][:3]
        if bad:
            tried = [row for row in self._rows() if row.marker in {call.marker for call in bad}]
            done = [event for event in self.live.events("call.done") if event["outcome"] != "ok"][:5]
            raise AssertionError(
                f"{bad}\ntried: {tried}\nlogged: {done}\nstates: {self.live.events('replica.state')[-20:]}"
            )
        return results(heard)

    def _rows(self) -> list[Entry]:
        fields = "user_id, backend, replica, reason, outcome, code, cost_nanos, estimated, input_tokens, output_tokens"
        with closing(sqlite3.connect(self.live.home / "headgate.db", timeout=10)) as db:
            return [Entry(*row) for row in db.execute(f"select {fields} from ledger")]


def _check_answers(rows: Sequence[Entry], heard: Sequence[Heard]) -> None:
    """A call that was answered has one entry that says so, or several that make one answer together."""
    by_marker: dict[str, list[Entry]] = {}
    for row in rows:
        by_marker.setdefault(row.marker, []).append(row)
    for row in rows:
        assert row.cost_nanos == row.input_tokens * INPUT + row.output_tokens * OUTPUT, row
    for call in heard:
        if call.result != "right":
            continue
        mine = by_marker[call.marker]
        good = [row for row in mine if row.outcome == "ok"] or [row for row in mine if _all_but_its_end(row)]
        assert len(good) == 1, f"{call.marker}: {mine}"
        if good[0].reason in {"first", "retry", "fallback", "hedge", "replay"} and not good[0].estimated:
            answer = honest(messages(call.marker), tokens=TOKENS)
            assert (good[0].input_tokens, good[0].output_tokens) == (answer.prompt_tokens, answer.completion_tokens)


def _all_but_its_end(row: Entry) -> bool:
    """The stream broke after its last word: the caller has the whole answer, and the attempt failed all the same."""
    return row.outcome == "failed" and row.estimated and row.output_tokens == TOKENS


@contextmanager
def standing(
    folder: Path,
    replicas: int | Sequence[Sequence[str]] = 3,
    *,
    idle_s: float = IDLE_S,
    first_token_s: float = FIRST_TOKEN_S,
    **more: Any,
) -> Iterator[Stand]:
    """`replicas`: how many, or the arguments of each that differ from the usual. `more` goes into the configuration."""
    given: Sequence[Sequence[str]] = [()] * replicas if isinstance(replicas, int) else replicas
    usual = ("--first-ms", str(FIRST_MS), "--rate", str(RATE), "--tokens", str(TOKENS))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prices.toml").write_text(PRICES)
    with ExitStack() as stack:
        pool = [stack.enter_context(chaos(*usual, *own)) for own in given]
        spare = stack.enter_context(chaos(*usual))
        config = {**_config(pool, spare, idle_s, first_token_s), "prices": str(folder / "prices.toml"), **more}
        live = stack.enter_context(serving(folder / "home", json.dumps(config)))
        # Probes and model lists come and go: the most of some looks is what is there without calls.
        tasks = 0.0
        for _ in range(5):
            tasks = max(tasks, live.gauge("headgate_tasks"))
            time.sleep(0.05)
        yield Stand(live, pool, spare, tasks)


def _config(pool: Sequence[Chaos], spare: Chaos, idle_s: float, first_token_s: float) -> dict[str, Any]:
    """Routes to the pool: `plain`, `backed` by the spare one, by `turns`, and `hedged` by turns."""
    idle = {"pool": {"idle_s": idle_s}}
    timeouts = {
        "connect_s": 1.0,
        "first_token_s": first_token_s,
        "between_tokens_s": first_token_s,
        "total_s": 3 * first_token_s,
    }
    hedge = {"quantile": 0.95, "max_extra": MAX_EXTRA}
    to_pool = {"targets": [{"backend": "pool", "model": "chaos"}]}
    return {
        "discover": False,
        "engine": {"enabled": False},
        "admission": {"key_requests_per_minute": 100_000_000, "key_tokens_per_minute": 100_000_000_000},
        "retries": {"reserve": RESERVE},
        "health": {"breaker": {"auth_s": AUTH_S}},
        "backends": [
            {"name": "pool", "replicas": [{"base_url": up.base_url} for up in pool], **idle},
            {"name": "spare", "base_url": spare.base_url, **idle},
        ],
        "rules": {"timeouts": timeouts},
        "routes": [
            {"model": "plain", **to_pool},
            {"model": "backed", **to_pool, "fallbacks": [{"backend": "spare", "model": "chaos"}]},
            {"model": "turns", **to_pool, "rules": {"balance": "round_robin"}},
            {"model": "hedged", **to_pool, "rules": {"balance": "round_robin", "hedge": hedge}},
        ],
    }

"""No endpoint that runs a model goes around keys, limits, budgets, the log or the ledger.

The cases are made of the server's own list of routes: whoever adds one must say here how it is called, or why it runs
no model.
"""

import http.client
import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headgate.api.build import ROUTES
from tests.live import Live, serving, until
from tests.upstream.process import upstream

RUN_NO_MODEL = {
    "GET /v1/models": "lists names from a snapshot",
    "GET /v1/models/{id}": "shows one name from a snapshot",
    "GET /v1/streams/{id}": "sends the rest of an answer that was paid for; tests/resume proves that it is admitted",
    "GET /livez": "says that the process answers",
    "GET /readyz": "says whether calls would be taken",
    "GET /metrics": "shows counters of this process",
}
"""Routes that a key without the scope `admin` may call, and why nothing is admitted or metered there."""

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "POST /v1/chat/completions": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    "POST /v1/completions": ("/v1/completions", {"prompt": "hi"}),
    "POST /v1/embeddings": ("/v1/embeddings", {"input": "hi"}),
    **{f"POST {path}": (path, {"query": "hi", "documents": ["a"]}) for path in ("/v1/rerank", "/v2/rerank", "/rerank")},
    "POST /passthrough/{backend}/{path}": ("/passthrough/up/responses", {"input": "hi"}),
}
"""How each of the others is called: its URL, and its body but for `model` and `stream`."""

OPEN = [route for route in ROUTES if route.scope != "admin"]
NAMES = [name for route in OPEN if (name := f"{route.method} {route.path}") not in RUN_NO_MODEL]
CASES = [
    pytest.param(f"{route.method} {route.path}", streamed, id=f"{route.path}{' as a stream' if streamed else ''}")
    for route in OPEN
    if f"{route.method} {route.path}" not in RUN_NO_MODEL
    for streamed in ([False, True] if route.streams else [False])
]
governed = pytest.mark.parametrize(("name", "streamed"), CASES)

CONFIG = """
discover: false
engine: {{enabled: false}}
prices: {folder}/prices.toml
backends:
  - {{name: up, base_url: "{upstream}"}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""
PRICES = 'version = "1"\n[[price]]\nmodel = "*"\neffective = 2020-01-01\ninput = 20\noutput = 800\n'
LIMIT_HEADERS = {
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
}
_numbers = itertools.count()


class Got:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()
        self.id = self.headers["x-request-id"]

    @property
    def code(self) -> str | None:
        found: str | None = json.loads(self.body)["error"]["code"]
        return found


class House:
    """A served gateway, and calls to it as the table above has them."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def key(self, **spec: object) -> str:
        """Of a project of its own."""
        status, body = self.live.post("/admin/keys", {"tenant": f"p{next(_numbers)}", **spec})
        assert status == 200, body
        made: str = json.loads(body)["key"]
        return made

    def call(self, name: str, streamed: bool, key: str | None, model: str = "ok", **headers: str) -> Got:
        if name not in CALLS:
            pytest.fail(
                f"No test knows how to call the route '{name}'. Add to {Path(__file__).name}: to CALLS its URL and "
                "body, so that it is proved to be admitted and metered; or to RUN_NO_MODEL the reason why that is not "
                "needed."
            )
        path, body = CALLS[name]
        given = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        with closing(http.client.HTTPConnection("127.0.0.1", self.live.port, timeout=30)) as wire:
            sent = {"model": model, **body, **({"stream": True} if streamed else {})}
            wire.request(name.split(" ")[0], path, json.dumps(sent), given)
            return Got(wire.getresponse())

    def told(self, call_id: str) -> list[dict[str, Any]]:
        """The `call.done` lines of a call; waits for the first."""

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.live.events("call.done") if line["request_id"] == call_id]

        until(lambda: bool(lines()))
        return lines()

    def entries(self, call_id: str) -> list[tuple[str, int, int | None]]:
        """Outcome, tokens and nanodollars of a call's entries, once all that was written so far is in the ledger."""
        assert self.live.get("/admin/usage", self.live.key)[0] == 200
        with closing(sqlite3.connect(self.live.home / "headgate.db")) as db:
            query = "select outcome, input_tokens + output_tokens, cost_nanos from ledger where call_id = ?"
            return list(db.execute(query, (call_id,)))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("governed")
    (folder / "prices.toml").write_text(PRICES)
    with upstream() as url, serving(folder / "home", CONFIG.format(folder=folder, upstream=url)) as live:
        yield House(live)


def test_every_exception_is_a_route_and_every_call_too() -> None:
    known = {f"{route.method} {route.path}" for route in OPEN}
    assert set(RUN_NO_MODEL) <= known
    assert set(CALLS) <= known
    assert not set(CALLS) & set(RUN_NO_MODEL)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_known_how_to_call_every_route_that_runs_a_model(name: str) -> None:
    assert name in CALLS, f"add '{name}' to CALLS in {Path(__file__).name}, or to RUN_NO_MODEL with the reason"


@governed
def test_without_a_key_it_is_refused(house: House, name: str, streamed: bool) -> None:
    got = house.call(name, streamed, None)
    assert (got.status, got.code) == (401, "missing_api_key")
    assert got.headers["www-authenticate"] == "Bearer"


@governed
def test_with_a_spent_budget_it_is_refused_for_good(house: House, name: str, streamed: bool) -> None:
    key = house.key(policy={"budgets": [{"amount": 0, "per": "month"}]})
    got = house.call(name, streamed, key)
    assert (got.status, got.code) == (429, "insufficient_quota"), got.body
    assert got.headers["x-should-retry"] == "false"
    assert got.headers.keys() >= LIMIT_HEADERS
    (line,) = house.told(got.id)
    assert (line["outcome"], line["attempts"]) == ("refused", 0)
    assert house.entries(got.id) == []


@governed
def test_beyond_its_requests_a_minute_it_is_refused_for_a_while(house: House, name: str, streamed: bool) -> None:
    key = house.key(limits={"requests_per_minute": 1})
    assert house.call(name, streamed, key).status == 200
    got = house.call(name, streamed, key)
    assert (got.status, got.code) == (429, "rate_limit_exceeded"), got.body
    assert 1 <= int(got.headers["retry-after"]) <= 60
    assert "x-should-retry" not in got.headers
    assert got.headers.keys() >= LIMIT_HEADERS
    assert got.headers["x-ratelimit-limit-requests"] == "1"


@governed
def test_a_good_call_leaves_one_line_and_one_entry(house: House, name: str, streamed: bool) -> None:
    got = house.call(name, streamed, house.key())
    assert got.status == 200, got.body
    assert got.headers["content-type"].startswith("text/event-stream" if streamed else "application/json")
    assert got.headers.keys() >= LIMIT_HEADERS
    (line,) = house.told(got.id)
    assert (line["outcome"], line["stream"], line["attempts"]) == ("ok", streamed, 1)
    ((outcome, tokens, nanos),) = house.entries(got.id)
    assert outcome == "ok"
    assert tokens > 0
    assert nanos is not None
    assert tokens == line["input_tokens"] + line["output_tokens"]


@governed
def test_a_failed_call_says_so_everywhere(house: House, name: str, streamed: bool) -> None:
    got = house.call(name, streamed, house.key(), model="status:code=500")
    assert got.status == 502, got.body
    assert got.headers.keys() >= LIMIT_HEADERS
    (line,) = house.told(got.id)
    assert (line["outcome"], line["status"]) == ("failed", 502)
    entries = house.entries(got.id)
    assert len(entries) == line["attempts"] >= 1
    assert {outcome for outcome, _, _ in entries} == {"failed"}


@governed
def test_a_replay_counts_as_one_request_and_costs_nothing(house: House, name: str, streamed: bool) -> None:
    key = house.key(policy={"limits": [{"unit": "requests", "amount": 2, "per": "day"}]})
    first = house.call(name, streamed, key, idempotency_key="once")
    again = house.call(name, streamed, key, idempotency_key="once")
    assert (first.status, again.status) == (200, 200), again.body
    assert again.headers["x-headgate-idempotent-replay"] == "true"
    assert again.body == first.body
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers.keys() >= LIMIT_HEADERS
    assert len(house.entries(first.id)) == 1
    assert len(house.told(first.id)) == 1
    (line,) = house.told(again.id)
    assert (line["outcome"], line["replayed"], line["attempts"]) == ("ok", True, 0)
    assert (line["input_tokens"], line["output_tokens"]) == (0, 0)
    assert house.entries(again.id) == []
    assert house.call(name, streamed, key).status == 429, "two requests were counted, no fewer"

"""A real server before real hostile upstreams: for each fault a backend alone, one of two replicas, and a fallback."""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.faults.rows import FORMS, ROWS, Form, Row
from tests.live import Live, serving, until
from tests.upstream.chaos import Chaos, chaos

Situation = Literal["alone", "replica", "model"]
SITUATIONS: tuple[Situation, ...] = ("alone", "replica", "model")
"""No help; a second replica without the fault; a fallback to another model, which goes on with what was sent."""
INPUT_NANOS, OUTPUT_NANOS = 1_000, 10_000
"""A token's price."""
PRICES = 'version = "faults"\n[[price]]\nmodel = "*"\neffective = 2020-01-01\ninput = 1\noutput = 10\n'
RESTS = {"pause_s": 0.1, "pause_max_s": 5.0}
"""Short ones, like the time between attempts: how many there are is told, not how long they last."""
TIMEOUTS = {"first_token_s": 2.0, "between_tokens_s": 1.5}


@dataclass(frozen=True)
class Case:
    """One call: this fault, in this form, with this help."""

    row: Row
    form: Form
    situation: Situation

    @property
    def name(self) -> str:
        return f"{ROWS.index(self.row)}-{self.form}-{self.situation}"

    @property
    def stream(self) -> bool:
        return self.form == "stream"

    @property
    def marker(self) -> str:
        """Stands in the prompt, so that the upstreams count this call's requests; the answer begins with it."""
        return f"marker-{self.name}"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"{self.marker} what of it?"}]


CASES = tuple(Case(row, form, situation) for row in ROWS for form in FORMS for situation in SITUATIONS)


@dataclass(frozen=True)
class House:
    """All that runs."""

    live: Live
    key: str
    """Of the project `faults`, which has a budget."""
    upstreams: list[Chaos]
    own: list[Chaos]
    """Those of them that one case alone has, since its fault strikes all connections."""

    def reached(self) -> dict[str, int]:
        """Requests at the upstreams, by marker."""
        found: dict[str, int] = {}
        for upstream in self.upstreams:
            for marker, count in upstream.stats()["markers"].items():
                found[marker] = found.get(marker, 0) + count
        return found

    def budget(self, dollars: float) -> None:
        self.live.put("/v1/organization/projects/faults/policy", {"budgets": [{"amount": dollars, "per": "total"}]})


def backends_of(case: Case, urls: dict[str, str], good: str) -> list[dict[str, Any]]:
    bad = urls[case.name] if case.row.at == "own" else urls[case.row.at]
    if case.situation != "replica":
        return [{"name": case.name, "base_url": bad}]
    return [{"name": case.name, "replicas": [{"base_url": bad}, {"base_url": good}]}]


def route_of(case: Case) -> dict[str, Any]:
    """Round robin begins with the first replica: the one with the fault."""
    model = f"chaos:{case.row.orders}"
    if case.row.tokens is None and not case.row.order:
        model = "chaos"
    found: dict[str, Any] = {"model": case.name, "targets": [{"backend": case.name, "model": model}]}
    total_s = case.row.total_s[FORMS.index(case.form)]
    found["rules"] = {"balance": "round_robin", "timeouts": TIMEOUTS | {"total_s": total_s}}
    if case.situation == "model":
        found["fallbacks"] = [{"backend": "spare", "model": "other"}]
    return found


def settings(folder: Path, backends: list[dict[str, Any]], routes: list[dict[str, Any]], **more: Any) -> str:
    """JSON is YAML."""
    (folder / "prices.toml").write_text(PRICES)
    given: dict[str, Any] = {
        "discover": False,
        "engine": {"enabled": False},
        "prices": str(folder / "prices.toml"),
        "health": {"probes": {"interval_s": 3600.0}, "breaker": RESTS},
        "retries": {"backoff_s": 0.02},
        "backends": backends,
        "routes": routes,
    }
    return json.dumps(given | more)


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """The address of a port that is taken, and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


@contextlib.contextmanager
def house(folder: Path, cases: tuple[Case, ...] = CASES) -> Iterator[House]:
    """A server with the faults, one for each case that strikes every connection, an honest one, another model."""
    with contextlib.ExitStack() as stack:
        up, plain, good, other = (
            stack.enter_context(chaos(*arguments))
            for arguments in ((), ("--fault", "tls=alert"), ("--deaf",), ("--deaf", "--salt", "other"))
        )
        own = {case.name: stack.enter_context(chaos()) for case in cases if case.row.at == "own"}
        urls = {"upstream": up.base_url, "closed": stack.enter_context(nobody())}
        urls |= {name: server.base_url for name, server in own.items()}
        urls["https"] = plain.base_url.replace("http:", "https:")
        backends = [backend for case in cases for backend in backends_of(case, urls, good.base_url)]
        backends.append({"name": "spare", "base_url": other.base_url, "prefill": "vllm"})
        config = settings(folder, backends, [route_of(case) for case in cases])
        live = stack.enter_context(serving(folder / "home", config))
        key = json.loads(live.post("/admin/keys", {"name": "faults", "tenant": "faults"})[1])["key"]
        found = House(live, key, [up, plain, good, other, *own.values()], list(own.values()))
        found.budget(1000.0)
        until(lambda: live.get("/v1/models", key)[0] == 200)
        yield found

"""One server before upstreams that misbehave in every way there is, call after call, and what that costs the server."""

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.caller import Told, speak, told
from tests.faults.house import settings
from tests.faults.recovery import CALM
from tests.faults.rows import ROWS
from tests.live import Live, serving, until
from tests.upstream.behaviours import BEHAVIOURS
from tests.upstream.chaos import Chaos, Heard, chaos
from tests.upstream.process import get, upstream

ATTEMPTS_MAX = 3
LEFT_AFTER = 1 << 20
"""Bytes of an endless answer after which its caller leaves."""
AS_THEY_CAME = {"old:json_for_stream"}
"""Passed on as the upstream says them: `[DONE]` without a finish, a choice without anything."""
GAUGES = r"^(headgate_(?:backend_)?calls_(?:in_flight|waiting)(?:\{[^}]*\})?) (\S+)$"
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass
class Witness:
    """A listener where nobody of ours has anything to seek; it counts who comes."""

    port: int
    came: int = 0


@contextlib.contextmanager
def witness(host: str = "127.0.0.2") -> Iterator[Witness]:
    with socket.create_server((host, 0)) as server:
        found = Witness(server.getsockname()[1])

        def watch() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()
                    found.came += 1

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@dataclass
class Siege:
    """The server, its upstreams, and what was seen of each call."""

    live: Live
    key: str
    chaos: Chaos
    old: str
    witness: Witness
    start_mb: float = 0.0
    start_tasks: float = 0.0
    wrong: list[str] = field(default_factory=list)
    calls: int = 0
    most: int = 0
    """Requests that came to the upstreams for one call."""

    @property
    def models(self) -> list[str]:
        """All faults, by the names that order them."""
        faults = [f"chaos:{row.orders}" for row in ROWS if row.at == "upstream"]
        place = f"http://127.0.0.2:{self.witness.port}/latest/meta-data/"
        faults += [f"chaos:redirect={place},status={status}" for status in REDIRECTS]
        faults += ["chaos:gzip_bomb=1024", "chaos:endless,size=65536", "chaos:huge_event=64"]
        return faults + [f"old:{name}" for name in BEHAVIOURS]

    def reached(self) -> int:
        """Requests at the upstreams so far."""
        return int(self.chaos.stats()["requests"]) + int(get(self.old, "/stats")["requests"])

    def try_all(self, models: Sequence[str]) -> None:
        """One after another, as a stream and whole; what is not as it must be is kept in `wrong`."""
        for model in models:
            for stream in (True, False):
                before = self.reached()
                body = {"model": model, "messages": [{"role": "user", "content": model}], "stream": stream}
                headers = {"x-headgate-timeout-s": "20"}
                heard = asyncio.run(speak(self.live.port, self.key, body, headers, most=LEFT_AFTER))
                self.calls += 1
                complaint = self._complaint(heard, before)
                if complaint and model not in AS_THEY_CAME:
                    self.wrong.append(f"{model} {'stream' if stream else 'whole'}: {complaint}")

    def _complaint(self, heard: Heard, before: int) -> str:
        again = 1  # a request that met a connection which had gone stale is sent anew
        count = self.reached() - before
        self.most = max(self.most, count)
        if count > ATTEMPTS_MAX + again:
            return f"{count} requests upstream"
        if heard.end == "open":
            return ""  # its caller had enough
        try:
            found = told(heard)
        except (ValueError, KeyError, AssertionError) as error:
            return f"not of OpenAI's shape: {error!r}"
        if found.attempts > ATTEMPTS_MAX:
            return f"{found.attempts} attempts"
        if found.error is None and not (found.done and all(choice.finishes for choice in found.choices.values())):
            return "neither an answer nor an error"
        return self._leaks(found, heard)

    @staticmethod
    def _leaks(found: Told, heard: Heard) -> str:
        """What an upstream says to us is not said to the caller."""
        for name in ("set-cookie", "server", "location", "access-control-allow-origin"):
            if name in found.headers:
                return f"the upstream's {name}"
        return "an address of ours" if found.error is not None and b"127.0.0." in heard.data else ""

    def busy(self) -> list[tuple[str, float]]:
        """The gauges of work in progress that are not zero."""
        page = self.live.get("/metrics")[1].decode()
        found: list[tuple[str, Any]] = re.findall(GAUGES, page, re.MULTILINE)
        return [(name, float(value)) for name, value in found if float(value)]

    def settle(self) -> None:
        """Nothing is in progress, here or there, and no task is left over."""
        until(lambda: self.live.gauge("headgate_tasks") <= self.start_tasks, 15)
        until(lambda: not self.busy(), 15, self.busy)
        self.chaos.idle(15)
        until(lambda: get(self.old, "/stats")["open"] == 0, 15, lambda: get(self.old, "/stats"))

    def honest(self, times: int) -> None:
        """Calls that nothing disturbs."""
        for number in range(times):
            for stream in (True, False):
                body = {"model": "chaos:tokens=20", "messages": [{"role": "user", "content": f"{number}"}],
                        "stream": stream}  # fmt: skip
                found = told(asyncio.run(speak(self.live.port, self.key, body)))
                assert found.error is None, found.error
                assert found.done


@contextlib.contextmanager
def siege(folder: Path) -> Iterator[Siege]:
    """Breakers stay closed and the retry budget does not run out, so that each fault is met with all there is."""
    with contextlib.ExitStack() as stack:
        bad = stack.enter_context(chaos())
        old = stack.enter_context(upstream())
        seen = stack.enter_context(witness())
        backends = [{"name": "chaos", "base_url": bad.base_url},
                    {"name": "old", "base_url": old}]  # fmt: skip
        routes = [
            {"model": "chaos:*", "targets": [{"backend": "chaos"}]},
            *({"model": f"old:{name}", "targets": [{"backend": "old", "model": name}]} for name in BEHAVIOURS),
        ]
        rules = {"timeouts": {"first_token_s": 1.0, "between_tokens_s": 1.0, "total_s": 5.0}}
        more = {"retries": {"reserve": 100_000.0, "backoff_s": 0.01}, "health": CALM, "rules": rules}
        live = stack.enter_context(serving(folder / "home", settings(folder, backends, routes, **more)))
        key = json.loads(live.post("/admin/keys", {"name": "siege", "tenant": "siege"})[1])["key"]
        found = Siege(live, key, bad, old, seen)
        found.honest(50)
        found.start_mb, found.start_tasks = live.rss_mb(), live.gauge("headgate_tasks")
        yield found

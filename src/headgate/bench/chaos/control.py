"""What the chaos upstream answers about itself: models, health, metrics, and `/chaos`."""

from collections.abc import Callable
from typing import Any

import msgspec

from headgate.bench.chaos.request import Request
from headgate.bench.chaos.schedule import Rule, Schedule
from headgate.bench.chaos.script import Script, plain, refusal
from headgate.bench.chaos.stats import Stats
from headgate.core.clock import Clock

_GAUGES = ("running", "waiting", "kv_usage")
_SEATS = 256
"""Requests at which the KV cache is said to be full."""
_RULES: msgspec.json.Decoder[Rule | list[Rule]] = msgspec.json.Decoder(Rule | list[Rule])
_FAMILIES = {
    "running": ("vllm:num_requests_running", "gauge"),
    "waiting": ("vllm:num_requests_waiting", "gauge"),
    "kv_usage": ("vllm:kv_cache_usage_perc", "gauge"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "counter"),
    "completion_tokens": ("vllm:generation_tokens_total", "counter"),
}
"""The names of vLLM 0.26."""


class Control:
    """Reads and changes a server."""

    def __init__(
        self,
        stats: Stats,
        schedule: Schedule,
        clock: Clock,
        models: tuple[str, ...],
        refuse: Callable[[float], None],
    ) -> None:
        self._stats = stats
        self._schedule = schedule
        self._clock = clock
        self._models = models
        self._refuse = refuse
        self._gauges: dict[str, float] = {}

    def probe(self, request: Request) -> Script:
        """What a balancer or a monitor asks: models, health, metrics."""
        if request.method != "GET":
            return refusal("only GET is served here", 405, "chat")
        if request.path in {"/v1/models", "/models"}:
            entries = [{"id": name, "object": "model", "created": 1, "owned_by": "chaos"} for name in self._models]
            return plain({"object": "list", "data": entries})
        if request.path == "/health":
            return plain({"status": "ok"})
        if request.path == "/metrics":
            return Script(None, self._metrics(), kind="text/plain; version=0.0.4; charset=utf-8")
        return refusal("Not Found", 404, "chat")

    def _metrics(self) -> bytes:
        stats = self._stats
        values: dict[str, float] = {
            "running": stats.open,
            "waiting": 0,
            "kv_usage": min(stats.open / _SEATS, 1.0),
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
        }
        values |= self._gauges
        lines = []
        for key, (name, kind) in _FAMILIES.items():
            labels = f'{{engine="0",model_name="{self._models[0]}"}}'
            lines.append(f"# HELP {name} Of the chaos upstream.\n# TYPE {name} {kind}\n{name}{labels} {values[key]}\n")
        return "".join(lines).encode()

    def orders(self, request: Request) -> Script:
        """`/chaos`: GET shows the rules, POST replaces them. Below it: stats, last, reset, refuse, metrics."""
        try:
            return self._orders(request)
        except (msgspec.DecodeError, ValueError) as error:
            return refusal(str(error), 400, "chat")

    def _orders(self, request: Request) -> Script:
        what = request.path.removeprefix("/chaos").strip("/")
        match request.method, what:
            case "GET", "":
                return plain(self._schedule.rules)
            case "POST", "":
                given = _RULES.decode(request.body)
                self._schedule.set(given if isinstance(given, list) else [given], self._clock.monotonic())
                return plain(self._schedule.rules)
            case "GET", "stats":
                return plain(self._stats.counts())
            case "GET", "last":
                return plain(_readable(self._stats.last))
            case "POST", "reset":
                self._schedule.set([], self._clock.monotonic())
                self._stats.reset()
                self._gauges = {}
                return plain({})
            case "POST", "refuse":
                self._refuse(msgspec.json.decode(request.body, type=dict[str, float]).get("s", 1.0))
                return plain({})
            case "POST", "metrics":
                self._gauges = _gauges(request.body)
                return plain(self._gauges)
        return refusal("GET /chaos, /chaos/stats, /chaos/last; POST /chaos, /chaos/reset, /chaos/refuse, "
                       "/chaos/metrics", 404, "chat")  # fmt: skip


def _gauges(body: bytes) -> dict[str, float]:
    given = msgspec.json.decode(body, type=dict[str, float])
    if unknown := given.keys() - set(_GAUGES):
        raise ValueError(f"{', '.join(sorted(unknown))}: only {', '.join(_GAUGES)} can be set")
    return given


def _readable(last: dict[str, Any]) -> dict[str, Any]:
    return last | {"body": last["body"].decode("utf-8", "replace")} if last else {}

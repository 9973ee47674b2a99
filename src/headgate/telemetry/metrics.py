"""Prometheus metrics with bounded labels. One instance per process, handed to whoever emits."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from headgate.core.usage import Receipt
from headgate.telemetry import names
from headgate.telemetry.families import Families, Family, Spread

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OVERHEAD = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1)
LABEL_VALUES_MAX = 200
_quiet: Callable[[], None] = disable_created_metrics
"""Else each series has a second line that nothing reads."""


class Bounded:
    """At most `limit` values of a label; the rest share `other`, so a caller cannot grow the metrics page."""

    def __init__(self, limit: int = LABEL_VALUES_MAX) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) < self._limit:
            self._known.add(value)
            return value
        return "other"


class Metrics:
    """Every metric of the gateway. Gauges are read from the callables in `watch` when the page is asked for."""

    def __init__(self) -> None:
        _quiet()
        self.registry = CollectorRegistry()
        r = self.registry
        # To find a series by its labels costs the library a microsecond; labels are bounded, so each is found once.
        self._calls = self._counter(
            names.CALLS, "Calls by what became of them.", "operation", "model", "tenant", "status"
        )
        self._refused = self._counter(
            names.REQUESTS_REFUSED, "Requests refused before they became calls.", "status", "code"
        )
        self._seconds = cache(
            Histogram(
                names.CALL_SECONDS, "From the request read to the reply closed.", ["operation"],
                buckets=_SECONDS, registry=r,
            ).labels
        )  # fmt: skip
        self._ttft = cache(
            Histogram(
                names.TTFT_SECONDS, "From the request read to the first piece of the answer.", ["model"],
                buckets=_SECONDS, registry=r,
            ).labels
        )  # fmt: skip
        self._queue = Histogram(names.QUEUE_SECONDS, "Time calls waited for admission.", buckets=_SECONDS, registry=r)
        self._overhead = Histogram(
            names.OVERHEAD_SECONDS, "Our own time before the upstream was asked, queueing left out.",
            buckets=_OVERHEAD, registry=r,
        )  # fmt: skip
        self._tokens = self._counter(names.TOKENS, "Tokens metered.", "kind", "model", "tenant")
        self._cost = self._counter(names.COST, "Money metered, in US dollars.", "model", "tenant")
        self._unpriced = self._counter(names.UNPRICED, "Attempts whose price is not known.", "model")
        self._attempts = self._counter(names.ATTEMPTS, "Attempts at backends.", "backend", "outcome")
        self._events = self._counter(names.EVENTS_PUBLISHED, "Events that a sink has acknowledged.", "sink")
        self._events_failed = self._counter(names.EVENTS_FAILURES, "Batches that a sink did not take whole.", "sink")
        self._idempotent = self._counter(
            names.IDEMPOTENT_CALLS, "Calls with an Idempotency-Key, by what became of them.", "result"
        )
        self._flights = self._counter(
            names.SINGLE_FLIGHT, "Answers of calls that identical ones could join, by who ran them.", "result"
        )
        self._degraded = self._counter(names.DEGRADED_CALLS, "Calls that no target answered and we did.", "level")
        self._resumed = self._counter(names.STREAMS_RESUMED, "Attempts to resume a stream.", "result")
        self._unkept = self._counter(names.STREAMS_UNKEPT, "Streams that could not be made resumable.", "reason")
        self._alone = self._counter(names.LIMITS_ALONE, "Calls judged without the store of limits.", "policy")
        self._bugs = Counter(names.BUGS, "Faults of ours that a caller saw as 500.", registry=r)
        self._budget_alerts = self._counter(
            names.BUDGET_ALERTS, "Budgets that came to their soft amount or their end.", "kind"
        )
        self._holds_exceeded = Counter(
            names.HOLDS_EXCEEDED, "Attempts that cost more than their budgets held for them.", registry=r
        )
        self._retries_refused = Counter(
            names.RETRIES_REFUSED, "Attempts not made because the retry budget was spent.", registry=r
        )
        self._switched = self._counter(
            names.SWITCHED_CALLS, "Calls that a kill switch refused, or gave another model.", "kind", "result"
        )
        self._model = Bounded()
        self._tenant = Bounded()
        self._code = Bounded()

    def _counter(self, name: str, about: str, *labels: str) -> Callable[..., Counter]:
        """Its series, by the values of the labels."""
        return cache(Counter(name, about, labels, registry=self.registry).labels)

    def call(self, *, operation: str, model: str, tenant: str, status: int, seconds: float, queue_s: float) -> None:
        self._calls(operation, self._model(model), self._tenant(tenant), str(status)).inc()
        self._seconds(operation).observe(seconds)
        self._queue.observe(queue_s)

    def refused(self, status: int, code: str) -> None:
        """A request that never became a call."""
        self._refused(str(status), self._code(code)).inc()

    def attempt(self, receipt: Receipt) -> None:
        model, tenant, usage = self._model(receipt.model), self._tenant(receipt.tenant), receipt.usage
        self._attempts(receipt.backend, receipt.outcome).inc()
        if usage.input:
            self._tokens("input", model, tenant).inc(usage.input)
        if usage.output:
            self._tokens("output", model, tenant).inc(usage.output)
        if receipt.cost_usd is not None:
            self._cost(model, tenant).inc(receipt.cost_usd)
        elif usage.total:
            self._unpriced(model).inc()
        if receipt.ttft_ms is not None:
            self._ttft(model).observe(receipt.ttft_ms / 1000)

    def overhead(self, seconds: float) -> None:
        self._overhead.observe(seconds)

    def budget_alert(self, kind: str) -> None:
        self._budget_alerts(kind).inc()

    def hold_exceeded(self) -> None:
        self._holds_exceeded.inc()

    def retry_refused(self) -> None:
        self._retries_refused.inc()

    def events_published(self, sink: str, count: int) -> None:
        self._events(sink).inc(count)

    def events_failed(self, sink: str) -> None:
        self._events_failed(sink).inc()

    def judged_alone(self, policy: str) -> None:
        """A call was judged by this policy, since the store of limits is away."""
        self._alone(policy).inc()

    def idempotent(self, result: str) -> None:
        """`first`, `joined`, `replayed`, or the code of the conflict."""
        self._idempotent(result).inc()

    def switched(self, kind: str, result: str) -> None:
        """`refused` or `diverted`, by a kill switch of this kind."""
        self._switched(kind, result).inc()

    def flight(self, result: str) -> None:
        """`led`, `joined` or `promoted`."""
        self._flights(result).inc()

    def degraded(self, level: str) -> None:
        """`cached` or `message`."""
        self._degraded(level).inc()

    def stream_resumed(self, result: str) -> None:
        """`resumed`, or why it was not, or not to the end."""
        self._resumed(result).inc()

    def stream_unkept(self, reason: str) -> None:
        """`too_many`: served without ids; `store`: the store of streams did not take all of it."""
        self._unkept(reason).inc()

    def bug(self) -> None:
        self._bugs.inc()

    def watch(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """A gauge without labels, read at scrape time."""
        Gauge(name, documentation, registry=self.registry).set_function(read)

    def watch_each(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge with one label, whose values are read at scrape time and are bounded by whoever gives them."""
        self.registry.register(_Each(name, documentation, label, read))

    def watch_all(self, read: Callable[[], Iterable[Family | Spread]]) -> None:
        """Whole metrics with labels, read at scrape time."""
        self.registry.register(Families(read))

    def page(self) -> tuple[bytes, bytes]:
        """The exposition and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST.encode()


class _Each(Collector):
    def __init__(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._about = (name, documentation, label)
        self._read = read

    def collect(self) -> Iterable[Metric]:
        name, documentation, label = self._about
        family = GaugeMetricFamily(name, documentation, labels=[label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family

"""What model servers say of their own load: the names of their metrics, present and past, and a reader of their page.

The page is the text format of Prometheus, version 0.0.4. Only gauges are read, and only those named here.
"""

from math import isfinite

from msgspec import Struct


class ServerLoad(Struct, frozen=True):
    """Requests at one server, whoever sent them."""

    waiting: float
    running: float
    cache_use: float | None = None
    """The part of its KV cache in use, 0 to 1, where the server says it."""


class Names(Struct, frozen=True):
    """Each meaning with its names, the present one first. A server needs to know but one of each."""

    waiting: tuple[str, ...]
    running: tuple[str, ...]
    cache_use: tuple[str, ...] = ()


SERVERS: dict[str, Names] = {
    "vllm": Names(
        ("vllm:num_requests_waiting",),
        ("vllm:num_requests_running",),
        ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ),
    "sglang": Names(("sglang:num_queue_reqs",), ("sglang:num_running_reqs",), ("sglang:token_usage",)),
    "llama.cpp": Names(
        ("llamacpp:requests_deferred",), ("llamacpp:requests_processing",), ("llamacpp:kv_cache_usage_ratio",)
    ),
    "tgi": Names(("tgi_queue_size",), ("tgi_batch_current_size",)),
    "trt-llm": Names(
        ("trtllm_num_requests_waiting",), ("trtllm_num_requests_running",), ("trtllm_kv_cache_utilization",)
    ),
}
_WANTED = frozenset(name for names in SERVERS.values() for name in (*names.waiting, *names.running, *names.cache_use))


def read_load(page: str) -> ServerLoad | None:
    """The load that a page of metrics tells; None where it has none of the names of any server we know.

    Requests are summed over models and ranks; of the caches the fullest counts.
    """
    samples = _samples(page)
    for names in SERVERS.values():
        waiting, running = (_first(samples, wanted) for wanted in (names.waiting, names.running))
        if waiting is not None and running is not None:
            cache = _first(samples, names.cache_use)
            return ServerLoad(sum(waiting), sum(running), max(cache) if cache else None)
    return None


def _first(samples: dict[str, list[float]], names: tuple[str, ...]) -> list[float] | None:
    return next((samples[name] for name in names if name in samples), None)


def _samples(page: str) -> dict[str, list[float]]:
    """The finite values of each wanted name, one per set of labels."""
    found: dict[str, list[float]] = {}
    for line in page.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name not in _WANTED:
            continue
        labels, _, rest = line[len(name) :].rpartition("}")
        if 'priority="' in labels and 'priority=""' not in labels:
            continue  # SGLang tells the whole, and beside it each priority's part
        try:
            value = float(rest.split()[0])
        except (ValueError, IndexError):
            continue
        if isfinite(value):
            found.setdefault(name, []).append(max(0.0, value))
    return found

"""A call that took three attempts, as the ledger has it; the guide shows what is told of it."""

from typing import Any

from headgate.core.usage import Receipt, Usage

CALL = "req_06fd1se9a1w3x6hvkrb2p8t5cn"
BEGAN = 1_795_287_900.0  # 2026-11-21 19:05:00 UTC


def attempt(number: int, at_ms: float, **more: Any) -> Receipt:
    fields: dict[str, Any] = {
        "id": f"att_06fd1se9a1w3x6hvkrb2p8t5cn-{number}", "call_id": CALL, "attempt": number, "tenant": "acme",
        "key_id": "key_06fd0b7zt2", "operation": "chat", "model": "assistant", "backend": "gpus",
        "upstream_model": "llama-3.1-8b", "started_at": BEGAN + at_ms / 1000, "stream": True, "user": "eve",
        "overhead_ms": 1.25,
    }  # fmt: skip
    return Receipt(**{**fields, **more})


RESCUED = [
    attempt(
        1, 41.25, duration_ms=55.0, outcome="failed", status=503, code="upstream_overloaded", queue_ms=40.0,
        replica="gpus-2", passed_over="gpus-1: its breaker is open", cost_nanos=0,
    ),
    attempt(
        2, 276.25, duration_ms=1_220.0, outcome="failed", status=504, code="upstream_stalled", queue_ms=220.0,
        replica="gpus-3", reason="retry", passed_over="gpus-1: its breaker is open; gpus-2: failed before",
        begun_ms=180.0, ttft_ms=456.25, usage=Usage(input=412, output=37, estimated=True), cost_nanos=44_900,
    ),
    attempt(
        3, 1_500.0, duration_ms=900.0, outcome="ok", status=200, queue_ms=220.0, backend="openai",
        upstream_model="gpt-4o-mini", reason="continue", begun_ms=310.0, ttft_ms=1_810.0,
        usage=Usage(input=451, cached=256, output=120), cost_nanos=120_450,
    ),
]  # fmt: skip

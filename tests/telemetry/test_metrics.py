"""Metrics: named in one place, bounded however many names callers make up."""

import re

from headgate.core.usage import Receipt, Usage
from headgate.telemetry import names
from headgate.telemetry.metrics import LABEL_VALUES_MAX, Metrics


def receipt(number: int, cost: int | None = 500_000_000) -> Receipt:
    return Receipt(
        id="a", call_id="c", attempt=1, tenant=f"t{number}", key_id="k", operation="chat", model=f"m{number}",
        backend="b", upstream_model="m", started_at=0, duration_ms=1, outcome="ok", status=200, ttft_ms=5.0,
        usage=Usage(input=10, output=5), cost_nanos=cost,
    )  # fmt: skip


def page(metrics: Metrics) -> str:
    return metrics.page()[0].decode()


def test_labels_are_bounded_and_the_rest_is_counted_as_other() -> None:
    metrics = Metrics()
    for number in range(3 * LABEL_VALUES_MAX):
        metrics.attempt(receipt(number))
        metrics.call(operation="chat", model=f"m{number}", tenant="t0", status=200, seconds=0.1, queue_s=0)
    text = page(metrics)
    assert len(re.findall(r'^headgate_calls_total\{model="', text, re.MULTILINE)) == LABEL_VALUES_MAX + 1
    assert 'model="other"' in text
    assert f'tenant="t{LABEL_VALUES_MAX - 1}"' in text
    assert f'tenant="t{LABEL_VALUES_MAX}"' not in text


def test_money_and_tokens_are_counted_and_missing_prices_apart() -> None:
    metrics = Metrics()
    metrics.attempt(receipt(1))
    metrics.attempt(receipt(1))
    metrics.attempt(receipt(1, cost=None))
    text = page(metrics)
    assert 'headgate_cost_usd_total{model="m1",tenant="t1"} 1.0' in text
    assert 'headgate_unpriced_attempts_total{model="m1"} 1.0' in text
    assert 'headgate_tokens_total{kind="input",model="m1",tenant="t1"} 30.0' in text


def test_gauges_are_read_when_the_page_is_asked_for() -> None:
    metrics, value = Metrics(), [1.0]
    metrics.watch("headgate_test", "A test.", lambda: value[0])
    metrics.watch_each("headgate_test_each", "A test.", "backend", lambda: {"a": value[0], "b": 0})
    value[0] = 7.0
    text = page(metrics)
    assert "headgate_test 7.0" in text
    assert 'headgate_test_each{backend="a"} 7.0' in text
    assert 'headgate_test_each{backend="b"} 0.0' in text


def test_every_name_is_used_and_every_metric_is_named_once() -> None:
    values = [value for name, value in vars(names).items() if name.isupper()]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[a-z][a-z0-9_.]*", value) for value in values)


def test_no_series_has_a_creation_time() -> None:
    metrics = Metrics()
    metrics.attempt(receipt(1))
    assert "_created" not in page(metrics)


def test_refused_requests_are_counted_by_status_and_code() -> None:
    metrics = Metrics()
    for number in range(3 * LABEL_VALUES_MAX):
        metrics.refused(404, f"c{number}")
    text = page(metrics)
    assert 'headgate_requests_refused_total{code="c1",status="404"} 1.0' in text
    assert len(re.findall(r"^headgate_requests_refused_total\{", text, re.MULTILINE)) == LABEL_VALUES_MAX + 1

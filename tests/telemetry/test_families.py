"""Metrics that something else counts stand on the page in their own kind, with their labels."""

from prometheus_client.parser import text_string_to_metric_families

from headgate.telemetry.families import Buckets, Family, Spread
from headgate.telemetry.metrics import Metrics


def test_every_kind_is_on_the_page_as_a_scraper_reads_it() -> None:
    metrics, labels = Metrics(), {"model_name": 'a "b"', "engine": "0"}
    families: list[Family | Spread] = [
        Family("vllm:num_requests_running", "Running.", "gauge", [(labels, 3.0)]),
        Family("vllm:generation_tokens_total", "Tokens.", "counter", [(labels, 10), ({**labels, "engine": "1"}, 4)]),
        Spread("vllm:iteration_tokens_total", "A step's.", [(labels, Buckets((1.0, 8.0), [2, 1, 4], 70))]),
        Family("vllm:nothing", "No model.", "gauge", []),
    ]
    metrics.watch_all(lambda: families)
    page = metrics.page()[0].decode()
    assert "# TYPE vllm:generation_tokens_total counter\n" in page
    assert "# TYPE vllm:iteration_tokens_total histogram\n" in page
    assert "vllm:nothing" not in page
    read = {family.name: family for family in text_string_to_metric_families(page)}
    assert [sample.value for sample in read["vllm:generation_tokens"].samples] == [10, 4]
    assert read["vllm:num_requests_running"].samples[0].labels == labels
    buckets = {s.labels["le"]: s.value for s in read["vllm:iteration_tokens_total"].samples if "le" in s.labels}
    assert buckets == {"1.0": 2, "8.0": 3, "+Inf": 7}
    families.clear()
    assert b"vllm:" not in metrics.page()[0]

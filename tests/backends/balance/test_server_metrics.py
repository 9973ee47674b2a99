"""The names we read are the names that servers use: one page per server, see `pages/README.md`."""

from pathlib import Path

import pytest

from headgate.backends.balance.server_metrics import SERVERS, ServerLoad, read_load

PAGES = Path(__file__).parent / "pages"
OF = {
    "vllm": ("vllm.txt", "vllm-old.txt"),
    "sglang": ("sglang.txt",),
    "llama.cpp": ("llamacpp.txt",),
    "tgi": ("tgi.txt",),
    "trt-llm": ("trtllm.txt",),
}
GONE = {"llamacpp:kv_cache_usage_ratio"}
"""Names that only servers have of which there is no page."""


def _page(name: str) -> str:
    return (PAGES / name).read_text()


def test_there_is_a_page_for_every_server() -> None:
    assert set(OF) == set(SERVERS)


@pytest.mark.parametrize("server", SERVERS)
def test_every_name_we_read_is_on_a_page_of_its_server(server: str) -> None:
    text = "\n".join(_page(name) for name in OF[server])
    there = {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    names = SERVERS[server]
    assert {*names.waiting, *names.running, *names.cache_use} - there - GONE == set()


@pytest.mark.parametrize("server", SERVERS)
def test_the_present_page_has_the_first_name_of_each_meaning(server: str) -> None:
    page, names = _page(OF[server][0]), SERVERS[server]
    for meaning in (names.waiting, names.running, names.cache_use):
        assert not meaning or meaning[0] in GONE or f"\n{meaning[0]}" in page


@pytest.mark.parametrize(
    ("page", "load"),
    [
        ("vllm.txt", ServerLoad(4, 17, 0.625)),
        ("vllm-old.txt", ServerLoad(2, 8, 0.41)),
        ("sglang.txt", ServerLoad(3, 12, 0.28)),
        ("llamacpp.txt", ServerLoad(46, 4, None)),
        ("tgi.txt", ServerLoad(7, 9, None)),
        ("trtllm.txt", ServerLoad(1, 21, 0.5)),
    ],
)
def test_the_load_of_each_server_is_read(page: str, load: ServerLoad) -> None:
    assert read_load(_page(page)) == load


def test_models_and_ranks_add_up_and_the_fullest_cache_counts() -> None:
    page = _page("vllm.txt") + _page("vllm.txt").replace('engine="0"', 'engine="1"').replace("0.625", "0.9")
    assert read_load(page) == ServerLoad(8, 34, 0.9)


def test_a_page_without_known_names_says_nothing() -> None:
    assert read_load("") is None
    assert read_load("process_cpu_seconds_total 12.5\n<html>not metrics</html>\n") is None
    assert read_load("vllm:num_requests_waiting 3\n") is None, "running is missing"


@pytest.mark.parametrize("value", ["NaN", "+Inf", "", "many", "}", "{"])
def test_values_that_are_none_are_passed_over(value: str) -> None:
    page = f'vllm:num_requests_waiting{{a="b"}} {value}\nvllm:num_requests_waiting 2 1712345678\n'
    assert read_load(page + "vllm:num_requests_running -3\n") == ServerLoad(2, 0)


def test_a_label_with_a_brace_in_it_hides_no_value() -> None:
    page = 'vllm:num_requests_waiting{model_name="a}b {c"} 5\nvllm:num_requests_running{model_name="a}b"} 1\n'
    assert read_load(page) == ServerLoad(5, 1)

"""The admin API of the engines: models come, sleep, wake and go while it serves, and nothing else can be read."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.house import Wire
from tests.backends import folders
from tests.live import ADMIN_KEY, Live, serving, until

BASE = "/v1/organization/engines"
CONFIG = """
discover: false
engine:
  models_dir: {folder}/models
  memory_mib: 300
  settings: {{kv_cache_mib: 8}}
  models: [{{name: first, model: bundled, keep: always}}]
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("engines")
    for name in ("small", "org/other"):
        (folder / "models" / name).mkdir(parents=True)
        folders.write(folder / "models" / name)
    folders.write(_made(folder / "outside"))
    (folder / "models" / "link").symlink_to(folder / "outside")
    (folder / "models" / "circle").symlink_to(folder / "models" / "circle")
    pipe = _made(folder / "models" / "pipe")
    folders.write(pipe)
    (pipe / "model.safetensors").unlink()
    os.mkfifo(pipe / "model.safetensors")
    broken = _made(folder / "models" / "broken")
    folders.write(broken)
    (broken / "model.safetensors").write_bytes(b"\xff" * 100)
    with serving(folder / "home", CONFIG.format(folder=folder)) as server:
        yield server


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def ask(live: Live, method: str, path: str, body: object = None, key: str = ADMIN_KEY) -> tuple[int, Any]:
    with Wire(live.port) as wire:
        wire.request(method, path, body, key)
        answer = wire.answer(method)
        return answer.status, json.loads(answer.body)


def chat(live: Live, model: str, tokens: int = 4) -> tuple[int, Any]:
    body = {"model": model, "max_tokens": tokens, "messages": [{"role": "user", "content": "hi"}]}
    status, raw = live.post("/v1/chat/completions", body)
    return status, json.loads(raw)


def listed(live: Live) -> list[str]:
    return [model["id"] for model in json.loads(live.get("/v1/models", live.key)[1])["data"]]


def metrics(live: Live) -> list[str]:
    return live.get("/metrics")[1].decode().splitlines()


def state(live: Live, name: str) -> str:
    status, shown = ask(live, "GET", f"{BASE}/{name}")
    return str(shown["state"]) if status == 200 else str(status)


def test_a_model_comes_sleeps_wakes_and_goes_while_the_server_serves(live: Live) -> None:
    status, begun = ask(live, "POST", BASE, {"name": "guest", "model": "org/other", "settings": {"max_sequences": 3}})
    assert (status, begun["id"], begun["object"], begun["origin"]) == (200, "guest", "headgate.engine", "api")
    until(lambda: state(live, "guest") == "ready" and "guest" in listed(live), 30)
    assert chat(live, "guest")[0] == 200
    page = ask(live, "GET", BASE)[1]
    assert [one["id"] for one in page["data"]] == ["first", "guest"]
    assert page["memory"]["limit_mib"] == 300
    assert page["memory"]["used_mib"] == sum(one["memory_mib"] for one in page["data"])
    assert set(page["data"][1]["start_seconds"]) >= {"import", "weights", "first_token"}
    until(lambda: 'vllm:e2e_request_latency_seconds_count{engine="0",model_name="guest"} 1.0' in metrics(live), 10)
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="guest"} 1.0' in metrics(live)
    assert 'vllm:generation_tokens_total{engine="0",model_name="guest"} 4.0' in metrics(live)
    assert 'headgate_backend_concurrency_limit{backend="embedded:guest"} 6.0' in metrics(live)
    kinds = {family.name: family.type for family in text_string_to_metric_families("\n".join(metrics(live)))}
    assert kinds["vllm:generation_tokens"] == "counter"
    assert kinds["vllm:time_to_first_token_seconds"] == "histogram"
    assert kinds["headgate_engine_start_seconds"] == "gauge"

    status, resting = ask(live, "POST", f"{BASE}/guest/sleep")
    assert (status, resting["state"]) == (200, "asleep")
    assert "guest" in listed(live)
    assert live.get("/readyz")[0] == 200
    assert chat(live, "guest")[0] == 200, "a call wakes it"
    assert ask(live, "POST", f"{BASE}/guest/sleep")[1]["state"] == "asleep"
    assert ask(live, "POST", f"{BASE}/guest/wake")[0] == 200
    until(lambda: state(live, "guest") == "ready", 30)

    status, leaving = ask(live, "DELETE", f"{BASE}/guest")
    assert (status, leaving["state"]) == (200, "unloading")
    assert listed(live) == ["first"]
    status, answer = chat(live, "guest")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    until(lambda: state(live, "guest") == "404", 30)
    entries = ask(live, "GET", "/v1/organization/audit_logs?resource_ids=guest")[1]["data"]
    assert [entry["type"] for entry in reversed(entries)] == [
        "engine.loaded", "engine.put_to_sleep", "engine.put_to_sleep", "engine.woken", "engine.unloaded",
    ]  # fmt: skip


def test_idle_models_give_way_to_those_that_are_called_and_the_others_stay(live: Live) -> None:
    need = ask(live, "GET", f"{BASE}/first")[1]["memory_mib"]
    names = ("a", "b", "c")
    for name in names:
        wanted = {"name": name, "model": "small"}
        until(partial(lambda asked: ask(live, "POST", BASE, asked)[0] == 200, wanted), 20)
        until(partial(lambda name: state(live, name) == "ready", name), 30)
    page = ask(live, "GET", BASE)[1]
    states = {one["id"]: one["state"] for one in page["data"]}
    assert states["first"] == "ready"
    assert states["a"] == "asleep", "the least recently used"
    assert page["memory"]["used_mib"] <= 300
    until(lambda: chat(live, "a")[0] == 200, 20)
    assert need + 3 * page["data"][1]["memory_mib"] > 300
    for name in names:
        assert ask(live, "DELETE", f"{BASE}/{name}")[0] == 200
    until(lambda: len(ask(live, "GET", BASE)[1]["data"]) == 1, 30)


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "x", "model": "../outside"}, 400, "'model'"),
    ({"name": "x", "model": "org/../../outside"}, 400, "'model'"),
    ({"name": "x", "model": "/etc"}, 400, "'model'"),
    ({"name": "x", "model": "link"}, 400, "'model'"),
    ({"name": "x", "model": "."}, 400, "'model'"),
    ({"name": "x", "model": ""}, 400, "'model'"),
    ({"name": "x", "model": "small\0"}, 400, "'model'"),
    ({"name": "x", "model": "nothing"}, 400, "There is no model 'nothing'"),
    ({"name": "x", "model": "circle"}, 400, "'model'"),
    ({"name": "x", "model": "long" * 100}, 400, "There is no model 'longlong"),
    ({"name": "*", "model": "small"}, 400, "'name'"),
    ({"name": "x", "model": "package:os.path"}, 400, "no model"),
    ({"name": "x", "model": "package:no-such-package"}, 400, "no model"),
    ({"name": "x", "model": "small", "settings": {"kv_cache_mib": 0}}, 400, "kv_cache_mib"),
    (
        {"name": "x", "model": "small", "settings": {"speculation": {"method": "draft", "model": "/etc"}}},
        400,
        "models_dir",
    ),
    ({"name": "x", "model": "small", "settings": {"kv_cach": 1}}, 400, "kv_cach"),
    ({"name": "x", "model": "small", "keep": "ever"}, 400, "keep"),
    ({"name": "x", "model": "small", "more": 1}, 400, "more"),
    ({"name": "", "model": "small"}, 400, "'name'"),
    ({"name": "a\nb", "model": "small"}, 400, "'name'"),
    ({"model": "small"}, 400, "name"),
    ({"name": "first", "model": "small"}, 409, "already"),
    ({"name": "x", "model": "bundled", "settings": {"kv_cache_mib": 4096, "max_sequences": 4096}}, 409, "of 300"),
]


def test_what_cannot_be_loaded_is_refused_and_leaves_nothing(live: Live) -> None:
    for asked, status, words in REFUSED:
        found, answer = ask(live, "POST", BASE, asked)
        assert (found, words in answer["error"]["message"]) == (status, True), (asked, answer)
    assert "Known are: none." in ask(live, "GET", f"{BASE}?x=1")[1]["error"]["message"]
    assert [one["id"] for one in ask(live, "GET", BASE)[1]["data"]] == ["first"]
    assert chat(live, "first")[0] == 200


@pytest.mark.parametrize("folder", ["broken", "pipe"])
def test_a_damaged_folder_is_told_and_never_offered(live: Live, folder: str) -> None:
    status, begun = ask(live, "POST", BASE, {"name": "bad", "model": folder})
    assert status == 200, begun
    until(lambda: state(live, "bad") == "refused", 30)
    assert "model.safetensors" in ask(live, "GET", f"{BASE}/bad")[1]["trouble"]
    assert "bad" not in listed(live)
    assert live.get("/readyz")[0] == 200
    assert ask(live, "POST", f"{BASE}/bad/sleep")[0] == 409
    assert ask(live, "POST", f"{BASE}/bad/wake")[0] == 200
    until(lambda: state(live, "bad") == "refused", 30)
    assert ask(live, "DELETE", f"{BASE}/bad")[0] == 200
    until(lambda: state(live, "bad") == "404", 30)


def test_a_folder_that_was_mended_is_tried_anew_when_it_is_woken(live: Live) -> None:
    folder = _made(live.home.parent / "models" / "mended")
    folders.write(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:100])
    assert ask(live, "POST", BASE, {"name": "mended", "model": "mended"})[0] == 200
    until(lambda: state(live, "mended") == "refused", 30)
    (folder / "model.safetensors").write_bytes(weights)
    assert ask(live, "POST", f"{BASE}/mended/wake")[0] == 200
    until(lambda: "mended" in listed(live), 30)
    assert ask(live, "GET", f"{BASE}/mended")[1]["memory_mib"] > 80
    assert chat(live, "mended")[0] == 200
    assert ask(live, "DELETE", f"{BASE}/mended")[0] == 200
    until(lambda: state(live, "mended") == "404", 30)


def test_one_that_works_is_not_put_to_sleep_and_finishes_when_it_is_unloaded(live: Live) -> None:
    assert ask(live, "POST", BASE, {"name": "busy", "model": "small"})[0] == 200
    until(lambda: "busy" in listed(live), 30)
    body = {
        "model": "busy", "stream": True, "max_tokens": 900, "n": 8,
        "logit_bias": {str(token): -100 for token in range(8)}, "messages": [{"role": "user", "content": "hi"}],
    }  # fmt: skip
    with Wire(live.port) as wire:
        wire.request("POST", "/v1/chat/completions", body, ADMIN_KEY)
        until(lambda: ask(live, "GET", f"{BASE}/busy")[1]["requests"] == 1, 10)
        status, answer = ask(live, "POST", f"{BASE}/busy/sleep")
        assert (status, answer["error"]["code"]) == (409, "engine_busy")
        assert ask(live, "DELETE", f"{BASE}/busy")[1]["state"] == "unloading"
        answer = wire.answer("POST")
        assert answer.body.endswith(b"data: [DONE]\n\n"), answer.body[-300:]
    until(lambda: state(live, "busy") == "404", 30)


def test_without_an_engine_there_is_nothing_to_administrate(tmp_path: Path) -> None:
    with serving(tmp_path / "home", "discover: false\nengine: {enabled: false}\n") as live:
        status, answer = ask(live, "GET", BASE)
        assert (status, answer["error"]["code"]) == (404, "engine_off")

"""A running server: reload by file and by signal, the last good settings stay, what needs a restart is said."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.live import Live, serving, until

BASE = "engine: {enabled: false}\ndiscover: false\nserver: {port: 0}\n"
ONE = BASE + "backends:\n- {name: demo, kind: scripted, models: [one]}\n"
TWO = BASE + "backends:\n- {name: demo, kind: scripted, models: [one, two]}\n"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("live"), ONE) as server:
        yield server


def models(live: Live) -> list[str]:
    return [model["id"] for model in json.loads(live.get("/v1/models", live.key)[1])["data"]]


def write(live: Live, text: str) -> None:
    draft = live.home / "draft"
    draft.write_text(text)
    draft.replace(live.home / "headgate.yaml")


def test_a_changed_file_is_noticed(live: Live) -> None:
    write(live, TWO)
    until(lambda: models(live) == ["one", "two"])
    assert live.events("config.reloaded")[-1]["models"] == 2


def test_a_bad_file_is_refused_loudly_and_the_last_good_one_stays(live: Live) -> None:
    write(live, TWO)
    live.process.send_signal(signal.SIGHUP)
    until(lambda: models(live) == ["one", "two"])
    before = len(live.events("config.refused"))
    write(live, TWO + "serveer: {}\n")
    until(lambda: len(live.events("config.refused")) > before)
    refused = live.events("config.refused")[-1]
    assert refused["level"] == "error"
    assert f"{live.home}/headgate.yaml:6: unknown setting 'serveer'" in refused["error"]
    write(live, BASE + "backends:\n- {name: far, base_url: 'http://h/v1', api_key_env: NOT_SET_ANYWHERE}\n")
    until(lambda: len(live.events("config.refused")) > before + 1)
    write(live, TWO + "prices: /nowhere.toml\n")
    until(lambda: "nowhere.toml" in live.events("config.refused")[-1]["error"])
    assert models(live) == ["one", "two"]
    assert live.post("/v1/chat/completions", {"model": "two", "messages": [{"role": "user", "content": "x"}]})[0] == 200


def test_sections_that_need_a_restart_are_named_each_time_until_then(live: Live) -> None:
    write(
        live, ONE.replace("port: 0", "port: 0, max_body_mb: 3") + "storage: {counters: memory}\nlog: {level: debug}\n"
    )
    until(lambda: live.events("config.reloaded")[-1].get("needs_restart") == ["server"], tell=live.events)
    before = len(live.events("config.reloaded"))
    live.process.send_signal(signal.SIGHUP)
    until(lambda: len(live.events("config.reloaded")) > before)
    assert live.events("config.reloaded")[-1]["needs_restart"] == ["server"]


def test_limits_change_while_serving(live: Live) -> None:
    write(live, ONE + "admission: {key_requests_per_minute: 1}\n")
    body = {"model": "one", "messages": [{"role": "user", "content": "x"}]}
    until(lambda: live.post("/v1/chat/completions", body)[0] == 429)
    write(live, ONE)
    until(lambda: live.post("/v1/chat/completions", body)[0] == 200)


def test_a_second_server_on_the_same_home_ends_with_the_remedy(live: Live) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "headgate.cli.main", "serve", "--home", str(live.home), "--port", "0"],
        cwd=live.home, capture_output=True, text=True, timeout=60, env={**os.environ, "HEADGATE_BOOTSTRAP_KEY": ""},
    )  # fmt: skip
    assert done.returncode == 2
    assert "another headgate server" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_usage_page_by_day_is_up_to_the_last_call(live: Live) -> None:
    body = {"model": "one", "messages": [{"role": "user", "content": "x"}]}
    until(lambda: live.post("/v1/chat/completions", body)[0] == 200)
    status, page = live.get("/admin/usage?bucket_width=1d&group_by=model,tenant", live.key)
    assert status == 200, page
    (bucket,) = json.loads(page)["data"]
    assert bucket["end_time"] - bucket["start_time"] == 86_400
    assert {result["group"]["model"] for result in bucket["results"]} >= {"one"}

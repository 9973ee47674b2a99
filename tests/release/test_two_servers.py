"""Two servers on one PostgreSQL: when the change returns, the next request on both meets it."""

import json
import signal
from collections.abc import Iterator
from functools import partial

import pytest

from tests.live import ADMIN_KEY, Live, serving_two, until
from tests.release.test_admin import BASE, active, ask

CONFIG = """
engine: {{enabled: false}}
discover: false
backends:
- {{name: demo, kind: scripted, models: [one, two]}}
storage: {{sql: "{url}"}}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Live]]:
    with serving_two(tmp_path_factory.mktemp("replicas"), CONFIG) as two:
        yield two


def states(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return sorted(replica["state"] for replica in answer["replicas"])


def test_when_the_change_returns_it_is_in_force_on_both(pair: tuple[Live, Live]) -> None:
    for number in range(6):
        here, there = pair[number % 2], pair[1 - number % 2]
        status, made = ask(here, "POST", BASE, {"kind": "model", "name": "one", "reason": "INC-1"})
        seen = active(here), active(there)  # no waiting in between
        assert (status, made["in_force"], states(made)) == (200, True, ["in_force"] * 2)
        assert [counts["model"] for counts in seen] == [1, 1]
        status, gone = ask(there, "DELETE", f"{BASE}/{made['id']}")
        seen = active(here), active(there)
        assert (status, gone["in_force"], states(gone)) == (200, True, ["in_force"] * 2)
        assert list(seen) == [{}, {}]


def ended(live: Live, name: str) -> bool:
    return name in [line["target"] for line in live.events("switch.expired")]


def test_each_says_so_in_its_own_log(pair: tuple[Live, Live]) -> None:
    one, two = pair
    _, made = ask(one, "POST", BASE, {"kind": "feature", "name": "f", "reason": "INC-2", "expires_in_seconds": 2})
    assert made["in_force"]
    for live in (one, two):
        until(partial(ended, live, "f"))
        assert active(live) == {}
        assert [line["reason"] for line in live.events("switch.on") if line["id"] == made["id"]] == ["INC-2"]


def test_a_server_that_stands_still_is_named_and_has_the_switch_once_it_goes_on(pair: tuple[Live, Live]) -> None:
    one, two = pair
    two.process.send_signal(signal.SIGSTOP)
    try:
        status, made = ask(one, "POST", f"{BASE}?wait_s=0.5", {"kind": "model", "name": "two", "reason": "INC-3"})
    finally:
        two.process.send_signal(signal.SIGCONT)
    assert (status, made["in_force"], states(made)) == (200, False, ["in_force", "waiting"])
    (late,) = [replica for replica in made["replicas"] if replica["state"] == "waiting"]
    assert late["host"].endswith(f":{two.port}")
    until(lambda: bool(json.loads(one.get(f"{BASE}/{made['id']}", ADMIN_KEY)[1])["in_force"]))
    assert active(two) == {"model": 1}
    assert ask(one, "DELETE", f"{BASE}/{made['id']}")[1]["in_force"]

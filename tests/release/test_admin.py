"""Kill switches by the admin API and by the command line, on a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import Wire
from tests.cli.shell import Shell
from tests.live import ADMIN_KEY, Live, serving

CONFIG = """
engine: {enabled: false}
discover: false
backends:
- {name: demo, kind: scripted, models: [one, two]}
"""
BASE = "/v1/organization/kill_switches"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("admin") / "home", CONFIG) as server:
        yield server


@pytest.fixture
def shell(live: Live) -> Shell:
    return Shell(live.home, CONFIG)


def ask(live: Live, method: str, path: str, body: object = None, key: str | None = ADMIN_KEY) -> tuple[int, Any]:
    with Wire(live.port) as wire:
        wire.request(method, path, body, key)
        answer = wire.answer(method)
        return answer.status, json.loads(answer.body)


def active(live: Live) -> dict[str, float]:
    """What the metrics say is in force in this process, by kind; zeros left out."""
    lines = live.get("/metrics")[1].decode().splitlines()
    found = [line for line in lines if line.startswith("headgate_kill_switches_active{")]
    counts = {line.partition('"')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in found}
    assert set(counts) == {"model", "backend", "tenant", "feature"}
    return {kind: count for kind, count in counts.items() if count}


def audited(live: Live, target: str) -> list[str]:
    """The types of its lines, oldest first."""
    _, answer = ask(live, "GET", f"/v1/organization/audit_logs?resource_ids[]={target}")
    return [line["type"] for line in answer["data"]][::-1]


def test_a_switch_lives_from_post_to_delete(live: Live) -> None:
    asked = {"kind": "model", "name": "one", "reason": "INC-1", "fallback_model": "two", "message": "Use two.",
             "expires_in_seconds": 3600}  # fmt: skip
    status, made = ask(live, "POST", BASE, asked)
    assert (status, made["object"], made["in_force"]) == (200, "headgate.kill_switch", True)
    assert made["id"].startswith("switch_")
    assert {field: made[field] for field in asked if field in made} == {
        field: value for field, value in asked.items() if field != "expires_in_seconds"
    }
    assert made["expires_at"] == pytest.approx(made["created_at"] + 3600, abs=1)
    assert made["created_by"] == "key_bootstrap"
    assert [replica["state"] for replica in made["replicas"]] == ["in_force"]
    assert active(live) == {"model": 1}
    status, page = ask(live, "GET", BASE)
    assert (page["object"], page["has_more"], page["first_id"]) == ("list", False, made["id"])
    shown = {name: value for name, value in made.items() if name not in {"in_force", "replicas"}}
    assert page["data"] == [shown]
    status, one = ask(live, "GET", f"{BASE}/{made['id']}")
    assert (status, one["in_force"], one["name"]) == (200, True, "one")
    status, gone = ask(live, "DELETE", f"{BASE}/{made['id']}?wait_s=1")
    assert (status, gone["object"], gone["deleted"], gone["in_force"]) == (
        200, "headgate.kill_switch.deleted", True, True,
    )  # fmt: skip
    assert active(live) == {}
    for method in ("GET", "DELETE"):
        status, answer = ask(live, method, f"{BASE}/{made['id']}")
        assert (status, answer["error"]["code"]) == (404, "kill_switch_not_found")
    assert audited(live, made["id"]) == ["kill_switch.created", "kill_switch.deleted"]
    events = [(line["event"], line["level"]) for line in live.events() if line.get("id") == made["id"]]
    assert events == [("switch.on", "warning"), ("switch.off", "warning")]


GOOD = {"kind": "model", "name": "x", "reason": "r"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "x", "reason": "r"}, "kind"),
    ({"kind": "model", "reason": "r"}, "name"),
    ({"kind": "model", "name": "x"}, "reason"),
    ({**GOOD, "kind": "planet"}, "kind"),
    ({**GOOD, "name": 5}, "name"),
    ({**GOOD, "name": ""}, "name"),
    ({**GOOD, "kind": "tenant", "name": "nobody"}, "name"),
    ({**GOOD, "fallback_model": "nothing-serves-this"}, "fallback_model"),
    ({**GOOD, "name": "*", "fallback_model": "two"}, "fallback_model"),
    ({**GOOD, "expires_at": 5}, "expires_at"),
    ({**GOOD, "expires_in_seconds": 0}, "expires_in_seconds"),
    ({**GOOD, "expires_in_seconds": 60, "expires_at": 4e9}, "expires_in_seconds"),
    ({**GOOD, "color": "red"}, "color"),
]


@pytest.mark.parametrize(("body", "field"), BAD)
def test_a_wrong_field_is_refused_by_its_name(live: Live, body: dict[str, Any], field: str) -> None:
    status, answer = ask(live, "POST", BASE, body)
    assert (status, answer["error"]["param"]) == (400, field), answer


@pytest.mark.parametrize("query", ["wait_s=-1", "wait_s=31", "wait_s=nan", "wait_s=x", "color=red"])
def test_a_wrong_query_is_refused_by_its_name(live: Live, query: str) -> None:
    status, answer = ask(live, "POST", f"{BASE}?{query}", GOOD)
    assert (status, answer["error"]["param"]) == (400, query.partition("=")[0])


def test_only_administrators_turn_things_off(live: Live) -> None:
    key = json.loads(live.post("/admin/keys", {"tenant": "acme"})[1])["key"]
    for method, path in (("POST", BASE), ("GET", BASE), ("GET", BASE + "/x"), ("DELETE", BASE + "/x")):
        assert ask(live, method, path, GOOD if method == "POST" else None, key)[0] == 403
        assert ask(live, method, path, GOOD if method == "POST" else None, None)[0] == 401


def test_the_command_line_does_it_beside_the_server_which_has_it_at_once(live: Live, shell: Shell) -> None:
    done = shell.run("switches", "on", "feature", "sums*", "--reason", "Too dear.", "--for", "2h", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert (made["in_force"], len(made["replicas"])) == (True, 1)
    assert active(live) == {"feature": 1}, "with no waiting in between"
    switch = made["switch"]
    assert switch["expires_at"] == pytest.approx(switch["created_at"] + 7_200, abs=60)
    listed = shell.run("switches", "list").stdout
    assert "sums*" in listed
    assert "Too dear." in listed
    assert "In force on every running server (1)." in listed
    done = shell.run("switches", "off", switch["id"])
    assert (done.returncode, "served again" in done.stdout) == (0, True)
    assert active(live) == {}
    assert audited(live, switch["id"]) == ["kill_switch.created", "kill_switch.deleted"]
    assert "Nothing is switched off." in shell.run("switches", "list").stdout


def test_a_project_is_named_by_its_name_too(live: Live, shell: Shell) -> None:
    project = json.loads(live.post("/v1/organization/projects", {"name": "the shop"})[1])["id"]
    made = json.loads(shell.run("switches", "on", "tenant", "the shop", "--reason", "x", "--json").stdout)["switch"]
    assert made["name"] == project
    shell.run("switches", "off", made["id"])
    refused = shell.run("switches", "on", "tenant", "nobody", "--reason", "x")
    assert (refused.returncode, "no project 'nobody'" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("on", "model", "m", "--reason", "x", "--for", "soon"), "time span"),
        (("on", "model", "m", "--reason", "x", "--wait", "99"), "--wait"),
        (("on", "model", "m", "--reason", "x", "--fallback", "m"), "fallback"),
        (("off", "switch_nobody"), "switch_nobody"),
    ],
)
def test_a_wrong_command_says_what_to_mend(shell: Shell, arguments: tuple[str, ...], word: str) -> None:
    done = shell.run("switches", *arguments)
    assert (done.returncode, word in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr


def test_without_a_server_the_switch_is_kept_for_the_one_that_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = Shell(home, CONFIG).run("switches", "on", "backend", "demo", "--reason", "x")
    assert (done.returncode, "No server is running" in done.stdout) == (0, True), done.stderr
    with serving(home, CONFIG) as live:
        assert active(live) == {"backend": 1}
        assert [line["target"] for line in live.events("switch.on")] == ["demo"]
    listed = Shell(home, CONFIG).run("switches", "list").stdout
    assert "No server is running" in listed, "it stopped properly, and nobody waits for it"

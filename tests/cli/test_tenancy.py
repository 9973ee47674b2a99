"""Projects, users, keys, limits and budgets from the command line, as people run it: with a server and without."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import CONFIG, Shell
from tests.live import ADMIN_KEY, serving, until


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def ok(shell: Shell, *arguments: str) -> str:
    done = shell.run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def data(shell: Shell, *arguments: str) -> Any:
    return json.loads(ok(shell, *arguments, "--json"))


def refused(shell: Shell, *arguments: str) -> str:
    done: subprocess.CompletedProcess[str] = shell.run(*arguments)
    assert done.returncode == 1, (done.returncode, done.stdout)
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_project_lives_from_create_to_archive_and_the_log_knows(shell: Shell) -> None:
    project = data(shell, "projects", "create", "sear☂ch")["id"]
    assert project == "sear☂ch"
    assert "already" in refused(shell, "projects", "create", "sear☂ch")
    assert "sear☂ch" in ok(shell, "projects", "list")
    assert data(shell, "projects", "rename", "sear☂ch", "search")["name"] == "search"
    user = data(shell, "users", "create", "Ada@example.com", "--project", "search")
    assert (user["email"], user["role"]) == ("ada@example.com", "reader")
    key = data(shell, "keys", "create", "--tenant", project, "--user", "ada@example.com")["record"]
    assert (key["kind"], key["user_id"], key["tenant"]) == ("user", user["id"], project)
    assert user["id"] in ok(shell, "keys", "list")
    assert "owner" in ok(shell, "users", "update", user["id"], "--role", "owner")
    ok(shell, "users", "remove", "ada@example.com")
    assert "Archived" in ok(shell, "projects", "archive", "search")
    assert "search" not in ok(shell, "projects", "list")
    assert "archived" in ok(shell, "projects", "list", "--archived")
    log = data(shell, "audit", "tail", "--project", project)
    assert [entry["type"] for entry in log] == [
        "project.created", "project.updated", "project.user.added", "api_key.created", "project.archived",
    ]  # fmt: skip
    assert {entry["actor"] for entry in log} == {"cli"}
    everything = ok(shell, "audit", "tail")
    assert "user.deleted" in everything
    assert "hg-" not in everything


def test_limits_are_set_replaced_shown_and_removed(shell: Shell) -> None:
    ok(shell, "keys", "create", "--tenant", "acme")
    set_ = ("limits", "set", "--project", "acme")
    ok(shell, *set_, "--requests-per-minute", "100", "--model", "gpt-*")
    ok(shell, *set_, "--requests-per-minute", "50", "--model", "gpt-*", "--burst", "80")
    ok(shell, *set_, "--tokens-per-minute", "9000", "--concurrency", "5", "--each", "key")
    policy = data(shell, "limits", "show", "--project", "acme")
    assert policy["limits"] == [
        {"unit": "requests", "amount": 50, "model": "gpt-*", "burst": 80},
        {"unit": "tokens", "amount": 9000, "each": "key"},
        {"unit": "concurrency", "amount": 5, "each": "key"},
    ]
    assert "requests/minute/all/gpt-*" in ok(shell, "limits", "show", "--project", "acme")
    ok(shell, "limits", "remove", "--project", "acme", "tokens/minute/key/*")
    assert "tokens/minute" in refused(shell, "limits", "remove", "--project", "acme", "tokens/minute/all/*")
    ok(shell, "limits", "models", "--organization", "--allow", "gpt-*", "--deny", "gpt-4*")
    policy = data(shell, "limits", "show", "--organization")
    assert policy == {"models": ["gpt-*"], "denied_models": ["gpt-4*"]}
    assert "--all" in refused(shell, "limits", "models", "--organization")
    assert "--all" in refused(shell, "limits", "models", "--organization", "--all", "--deny", "gpt-4*")
    assert data(shell, "limits", "show", "--organization") == policy
    assert data(shell, "limits", "models", "--organization", "--all") == {}
    assert '{"models":null,"denied_models":null}' in ok(shell, "audit", "tail", "-n", "1")
    assert "--requests-per-minute" in refused(shell, *set_)
    for wrong in (("--requests-per-minute", "-5"), ("--tokens-per-minute", "9" * 30), ("--concurrency", "0")):
        assert "limits[" in refused(shell, *set_, *wrong)
    assert "no project 'nobody'" in refused(shell, "limits", "show", "--project", "nobody")


def test_budgets_are_set_raised_for_a_time_and_removed(shell: Shell) -> None:
    ok(shell, "keys", "create", "--tenant", "acme")
    place = ("--project", "acme")
    assert "no budget" in refused(shell, "budgets", "raise", *place, "--usd", "50", "--until", "2d")
    ok(
        shell,
        "budgets",
        "set",
        *place,
        "--usd",
        "100",
        "--soft",
        "80",
        "--at-limit",
        "downgrade",
        "--downgrade-to",
        "m",
    )
    before = time.time()
    (budget,) = data(shell, "budgets", "raise", *place, "--usd", "50", "--until", "2d")["budgets"]
    assert budget.pop("raised_until") == pytest.approx(before + 2 * 86_400, abs=60)
    assert budget == {"amount": 100.0, "soft": 80.0, "at_limit": "downgrade", "downgrade_to": "m", "raised_by": 50.0}
    ok(shell, "budgets", "set", *place, "--tokens", "5000", "--per", "day")
    assert "tokens/day/all/*" in ok(shell, "budgets", "show", *place)
    ok(shell, "budgets", "remove", *place, "--tokens", "--per", "day")
    assert "downgrade_to" in refused(shell, "budgets", "set", *place, "--usd", "1", "--at-limit", "downgrade")
    for wrong in ("-1", "nan", "inf", "1e300"):
        assert refused(shell, "budgets", "set", *place, f"--usd={wrong}")
    assert "velocity" in data(shell, "budgets", "velocity", *place, "--times", "5")
    assert "velocity" not in data(shell, "budgets", "velocity", *place, "--off")


def test_what_a_command_changes_is_in_force_on_a_running_server(tmp_path: Path) -> None:
    with serving(tmp_path / "home", CONFIG) as live:
        shell = Shell(live.home, CONFIG)
        made = data(shell, "keys", "create", "--tenant", "acme")
        key = made["key"]
        until(lambda: live.get("/v1/models", key)[0] == 200)
        ok(shell, "budgets", "stop", "acme", "--until", "1h", "--reason", "A leak.")
        path = "/v1/organization/projects/acme/spend_stop"
        assert json.loads(live.get(path, ADMIN_KEY)[1])["reason"] == "A leak."
        assert "A leak." in ok(shell, "budgets", "stopped")
        ok(shell, "budgets", "release", "acme")
        assert live.get(path, ADMIN_KEY)[0] == 404
        assert "not stopped" in refused(shell, "budgets", "release", "acme")
        ok(shell, "projects", "archive", "acme")
        until(lambda: live.get("/v1/models", key)[0] == 401)

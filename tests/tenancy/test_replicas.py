"""Two servers on one PostgreSQL: what is changed on one is in force on the other within a second."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests import servers
from tests.api.house import Wire
from tests.live import ADMIN_KEY, SHARED_SECRET, Live, serving, serving_two, until

CONFIG = """
engine: {{enabled: false}}
discover: false
backends:
- {{name: demo, kind: scripted, models: [one]}}
storage: {{sql: "{url}"}}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Live]]:
    with serving_two(tmp_path_factory.mktemp("replicas"), CONFIG) as two:
        yield two


def made(live: Live, path: str, body: object) -> Any:
    status, answer = live.post(path, body)
    assert status == 200, answer
    return json.loads(answer)


def state(live: Live, key: str) -> tuple[int, str | None]:
    """The status of a question with this key, and the error's code."""
    status, body = live.get("/v1/models", key)
    return status, json.loads(body)["error"]["code"] if status != 200 else None


def answers(live: Live, key: str, status: int) -> bool:
    return state(live, key)[0] == status


def within_a_second(check: Callable[[], bool], what: str) -> None:
    """Prints how long it took; a busy machine gets ten times the second before the test fails."""
    begun = time.monotonic()
    until(check, 10.0, lambda: what)
    print(f"{what}: {time.monotonic() - begun:.3f} s")


def test_keys_projects_users_and_policies_changed_on_one_are_in_force_on_the_other(pair: tuple[Live, Live]) -> None:
    one, two = pair
    project = made(one, "/v1/organization/projects", {"name": "shared"})["id"]
    key = made(one, "/admin/keys", {"tenant": project})
    within_a_second(lambda: state(two, key["key"]) == (200, None), "a key made")
    user = made(two, "/v1/organization/users", {"email": "ada@example.com"})["id"]
    personal = made(two, "/admin/keys", {"tenant": project, "user_id": user})
    within_a_second(lambda: state(one, personal["key"]) == (200, None), "a user's key made")
    denied = {"mode": "allow_list", "model_ids": ["nothing"]}
    made(one, f"/v1/organization/projects/{project}/model_permissions", denied)
    path = f"/v1/organization/projects/{project}/policy"
    assert json.loads(two.get(path, ADMIN_KEY)[1]) == {"models": ["nothing"]}
    made(one, f"/v1/organization/projects/{project}/users/{user}", {"role": "owner"})
    made(two, f"/v1/organization/projects/{project}/archive", {})
    within_a_second(lambda: state(one, key["key"]) == (401, "project_archived"), "a project archived")
    within_a_second(lambda: state(one, personal["key"]) == (401, "project_archived"), "its user's key ended")


def test_a_revoked_key_fails_on_the_other(pair: tuple[Live, Live]) -> None:
    one, two = pair
    for here, there in ((one, two), (two, one)):
        project = made(here, "/v1/organization/projects", {"name": "short"})["id"]
        account = made(here, f"/v1/organization/projects/{project}/service_accounts", {"name": "robot"})
        key = account["api_key"]["value"]
        within_a_second(partial(answers, there, key, 200), "a service account's key made")
        key_id = account["api_key"]["id"]
        with Wire(here.port) as wire:
            wire.request("DELETE", f"/v1/organization/projects/{project}/api_keys/{key_id}", None, ADMIN_KEY)
            assert wire.answer("DELETE").status == 200
        assert state(here, key) == (401, "invalid_api_key")
        within_a_second(partial(answers, there, key, 401), "a key revoked")


def test_while_the_database_is_away_known_keys_go_on_and_unknown_ones_are_told_to_wait(tmp_path: Path) -> None:
    with (
        servers.postgres_database() as url,
        psycopg.connect(servers.postgres_url(), autocommit=True) as admin,
        serving(tmp_path, CONFIG.format(url=url), SHARED_SECRET) as live,
    ):
        name = urlsplit(url).path.strip("/")
        known = made(live, "/admin/keys", {"tenant": "acme"})["key"]
        gone = made(live, "/admin/keys", {"tenant": "gone"})["key"]
        made(live, "/v1/organization/projects/gone/archive", {})
        assert state(live, "hg-unknown") == (401, "invalid_api_key")
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        until(lambda: state(live, "hg-unknown") == (503, "keys_unavailable"))
        assert state(live, known) == (200, None)
        assert state(live, gone) == (401, "project_archived")
        status, body = live.post("/v1/organization/projects", {"name": "x"})
        assert (status, json.loads(body)["error"]["code"]) == (503, "storage_unavailable")
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true')
        until(lambda: state(live, "hg-unknown") == (401, "invalid_api_key"), 20.0)
        late = made(live, "/admin/keys", {"tenant": "acme"})["key"]
        assert state(live, late) == (200, None)

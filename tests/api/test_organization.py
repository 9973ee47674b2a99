"""The official SDK's administration client against a real server: what it makes is in force at once."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import openai
import pytest
from openai import OpenAI
from openai.resources.admin.organization import Organization

from headgate.api.build import ROUTES
from tests.api.house import Wire
from tests.live import ADMIN_KEY, Live, serving

CONFIG = "engine: {enabled: false}\ndiscover: false\nbackends:\n- {name: demo, kind: scripted, models: [one]}\n"
USER: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("organization"), CONFIG) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=live.api, api_key="none", admin_api_key=ADMIN_KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def org(client: OpenAI) -> Organization:
    return client.admin.organization


def models(live: Live, key: str) -> tuple[int, str | None]:
    """The status of a question with this key, and the error's code."""
    status, body = live.get("/v1/models", key)
    return status, json.loads(body)["error"]["code"] if status != 200 else None


def key_of(live: Live, **spec: Any) -> tuple[str, str]:
    status, body = live.post("/admin/keys", spec)
    assert status == 200, body
    made = json.loads(body)
    return made["id"], made["key"]


def ask(live: Live, method: str, path: str, key: str | None, body: object = None) -> tuple[int, Any]:
    with Wire(live.port) as wire:
        wire.request(method, path, body, key)
        answer = wire.answer(method)
    return answer.status, answer.json()


def put(live: Live, path: str, body: object) -> tuple[int, Any]:
    return ask(live, "PUT", path, ADMIN_KEY, body)


def test_a_project_is_made_renamed_listed_and_archived(live: Live, org: Organization) -> None:
    project = org.projects.create(name="Wörterbuch ☂")
    assert project.id.startswith("proj_")
    assert (project.name, project.status, project.object) == ("Wörterbuch ☂", "active", "organization.project")
    assert org.projects.update(project.id, name="dictionary").name == "dictionary"
    assert org.projects.retrieve(project.id).name == "dictionary"
    account = org.projects.service_accounts.create(project.id, name="nightly")
    assert account.api_key is not None
    assert models(live, account.api_key.value) == (200, None)
    archived = org.projects.archive(project.id)
    assert (archived.status, archived.archived_at is not None) == ("archived", True)
    assert models(live, account.api_key.value) == (401, "project_archived")
    assert project.id not in [one.id for one in org.projects.list()]
    assert project.id in [one.id for one in org.projects.list(include_archived=True)]
    with pytest.raises(openai.BadRequestError) as refused:
        org.projects.service_accounts.create(project.id, name="late")
    assert refused.value.code == "project_archived"


def test_lists_are_walked_page_by_page_without_a_gap(org: Organization) -> None:
    made = [org.projects.create(name=f"page {number}").id for number in range(7)]
    walked = [project.id for project in org.projects.list(limit=2)]
    assert len(walked) == len(set(walked))
    assert [one for one in walked if one in made] == made[::-1]
    first = org.projects.list(limit=3)
    assert (len(first.data), first.has_more, first.last_id) == (3, True, first.data[-1].id)


def test_users_come_by_invitation_join_projects_and_leave(live: Live, org: Organization) -> None:
    project = org.projects.create(name="people")
    invite = org.invites.create(email="Ada@Example.com", role="reader", projects=[{"id": project.id, "role": "member"}])
    assert (invite.status, invite.email, invite.projects[0].id) == ("accepted", "ada@example.com", project.id)
    (user,) = org.users.list(emails=["ada@example.com"])
    assert org.invites.retrieve(invite.id).email == user.email
    assert invite.id in [one.id for one in org.invites.list()]
    with pytest.raises(openai.ConflictError):
        org.invites.delete(invite.id)
    with pytest.raises(openai.ConflictError):
        org.invites.create(email="ADA@example.com", role="owner")
    assert org.users.update(user.id, role="owner").role == "owner"
    assert [one.id for one in org.projects.users.list(project.id)] == [user.id]
    assert org.projects.users.update(user.id, project_id=project.id, role="owner").role == "owner"

    _, key = key_of(live, tenant=project.id, user_id=user.id, name="ada's")
    assert models(live, key) == (200, None)
    (listed,) = org.projects.api_keys.list(project.id)
    assert listed.owner.user is not None
    assert (listed.owner.user.id, listed.owner_project_access) == (user.id, "active")
    assert org.projects.users.delete(user.id, project_id=project.id).deleted
    assert models(live, key) == (401, "not_a_member")
    assert org.projects.api_keys.retrieve(listed.id, project_id=project.id).owner_project_access == "inactive"
    org.projects.users.create(project.id, role="member", email="ada@example.com")
    assert models(live, key) == (200, None)
    assert org.users.delete(user.id).deleted
    assert models(live, key) == (401, "user_removed")
    with pytest.raises(openai.NotFoundError):
        org.users.retrieve(user.id)
    again = org.invites.create(email="ada@example.com", role="reader")
    assert again.id != invite.id
    assert models(live, key) == (401, "user_removed"), "who comes back is a new user"


def test_service_accounts_have_keys_that_end_with_them(live: Live, org: Organization) -> None:
    project = org.projects.create(name="robots")
    made = org.projects.service_accounts.create(project.id, name="robot", expires_in_seconds=3600)
    assert made.api_key is not None
    assert made.api_key.expires_at == pytest.approx(made.api_key.created_at + 3600, abs=2)
    second = org.projects.service_accounts.api_keys.create(made.id, project_id=project.id, name="two")
    assert [models(live, key) for key in (made.api_key.value, second.value)] == [(200, None)] * 2
    renamed = org.projects.service_accounts.update(made.id, project_id=project.id, name="R2")
    assert renamed.name == "R2"
    assert [one.name for one in org.projects.service_accounts.list(project.id)] == ["R2"]
    owners = [key.owner.service_account for key in org.projects.api_keys.list(project.id)]
    assert [owner.name for owner in owners if owner is not None] == ["R2", "R2"]
    assert org.projects.api_keys.delete(second.id, project_id=project.id).deleted
    assert models(live, second.value) == (401, "invalid_api_key")
    assert org.projects.service_accounts.delete(made.id, project_id=project.id).deleted
    assert models(live, made.api_key.value) == (401, "invalid_api_key")
    for seconds in (0, 10**12, 10**400):
        with pytest.raises(openai.BadRequestError, match="expires_in_seconds"):
            org.projects.service_accounts.create(project.id, name="none", expires_in_seconds=seconds)
    assert not list(org.projects.service_accounts.list(project.id)), "what is refused leaves nothing behind"
    bare = org.projects.service_accounts.create(project.id, name="bare", create_service_account_only=True)
    assert bare.api_key is None


def test_rate_limits_spend_limits_and_model_lists_become_the_policy(live: Live, org: Organization) -> None:
    project = org.projects.create(name="limited")
    assert {limit.model for limit in org.projects.rate_limits.list_rate_limits(project.id)} >= {"*", "one"}
    changed = org.projects.rate_limits.update_rate_limit(
        "rl-org/gpt-*", project_id=project.id, max_requests_per_1_minute=60, max_tokens_per_1_minute=9000
    )
    assert (changed.model, changed.max_requests_per_1_minute) == ("org/gpt-*", 60)
    again = org.projects.rate_limits.update_rate_limit(changed.id, project_id=project.id, max_requests_per_1_day=1000)
    assert (again.max_tokens_per_1_minute, again.max_requests_per_1_day) == (9000, 1000)
    listed = org.projects.rate_limits.list_rate_limits(project.id)
    assert again in list(listed)
    page = org.projects.rate_limits.list_rate_limits
    assert [limit.id for limit in page(project.id, limit=1, after="rl-one")] == [changed.id]
    nearest = page(project.id, limit=1, before=changed.id)
    assert ([limit.id for limit in nearest.data], nearest.has_more) == (["rl-one"], True)
    assert page(project.id, after="rl-no-longer-there").data[0].id == "rl-one"

    limit = org.projects.spend_limit.update(project.id, currency="USD", interval="month", threshold_amount=12_345)
    assert (limit.threshold_amount, limit.object) == (12_345, "project.spend_limit")
    assert limit.enforcement.status == "inactive"
    alert = org.projects.spend_alerts.create(
        project.id, currency="USD", interval="month", threshold_amount=10_000,
        notification_channel={"type": "email", "recipients": ["a@example.com"], "subject_prefix": "[spend]"},
    )  # fmt: skip
    assert org.projects.spend_alerts.retrieve(alert.id, project_id=project.id) == alert
    assert list(org.projects.spend_alerts.list(project.id)) == [alert]
    permissions = org.projects.model_permissions.update(project.id, mode="deny_list", model_ids=["gpt-4*"])
    assert permissions.api_model_ids == ["gpt-4*"]
    status, body = live.get(f"/v1/organization/projects/{project.id}/policy", ADMIN_KEY)
    assert (status, json.loads(body)) == (200, {
        "denied_models": ["gpt-4*"],
        "limits": [
            {"unit": "requests", "amount": 60, "model": "org/gpt-*"},
            {"unit": "tokens", "amount": 9000, "model": "org/gpt-*"},
            {"unit": "requests", "amount": 1000, "per": "day", "model": "org/gpt-*"},
        ],
        "budgets": [{"amount": 123.45, "soft": 100.0}],
    })  # fmt: skip
    assert org.projects.spend_limit.delete(project.id).deleted
    assert org.projects.spend_alerts.retrieve(alert.id, project_id=project.id).threshold_amount == 10_000
    assert org.projects.spend_alerts.delete(alert.id, project_id=project.id).deleted
    assert org.projects.model_permissions.delete(project.id).deleted
    for gone in (org.projects.spend_limit.retrieve, org.projects.model_permissions.retrieve):
        with pytest.raises(openai.NotFoundError):
            gone(project.id)


def test_the_organization_has_a_spend_limit_and_an_alert_of_its_own(org: Organization) -> None:
    with pytest.raises(openai.NotFoundError):
        org.spend_limit.retrieve()
    assert org.spend_limit.update(currency="USD", interval="month", threshold_amount=500).threshold_amount == 500
    assert org.spend_limit.retrieve().object == "organization.spend_limit"
    assert (
        org.spend_limit.update(currency="USD", interval="month", threshold_amount=0).enforcement.status == "enforcing"
    )
    channel: Any = {"type": "email", "recipients": []}
    wanted: Any = {"currency": "USD", "interval": "month", "notification_channel": channel}
    alert = org.spend_alerts.create(threshold_amount=400, **wanted)
    with pytest.raises(openai.ConflictError):
        org.spend_alerts.create(threshold_amount=300, **wanted)
    assert org.spend_alerts.update(alert.id, threshold_amount=300, **wanted).threshold_amount == 300
    assert [one.threshold_amount for one in org.spend_alerts.list()] == [300]
    assert org.spend_alerts.delete(alert.id).deleted
    assert org.spend_limit.delete().deleted
    assert list(org.spend_alerts.list()) == []


def test_admin_keys_administrate_until_they_are_deleted(live: Live, org: Organization) -> None:
    made = org.admin_api_keys.create(name="second admin", expires_in_seconds=600)
    assert live.get("/admin/keys", made.value)[0] == 200
    assert models(live, made.value)[0] == 403
    listed = {key.id: key for key in org.admin_api_keys.list(order="desc")}
    assert {made.id, "key_bootstrap"} <= set(listed)
    assert made.value not in listed[made.id].redacted_value
    assert org.admin_api_keys.retrieve(made.id).name == "second admin"
    assert org.admin_api_keys.delete(made.id).deleted
    assert live.get("/admin/keys", made.value)[0] == 401


def test_the_log_says_who_changed_what_and_never_a_secret(live: Live, org: Organization) -> None:
    admin = org.admin_api_keys.create(name="auditor")
    with OpenAI(base_url=live.api, api_key="none", admin_api_key=admin.value, max_retries=0) as client:
        other = client.admin.organization
        project = other.projects.create(name="logged")
        other.projects.update(project.id, name="logged twice")
        account = other.projects.service_accounts.create(project.id, name="robot")
        other.projects.archive(project.id)
    assert account.api_key is not None
    entries = list(org.audit_logs.list(project_ids=[project.id], limit=2))
    types = [
        "project.archived", "api_key.created", "service_account.created", "project.updated", "project.created",
    ]  # fmt: skip
    assert [entry.type for entry in entries] == types
    for entry in entries:
        assert entry.actor is not None
        assert entry.actor.api_key is not None
        assert entry.actor.api_key.id == admin.id
    updated = entries[3].project_updated
    assert updated is not None
    assert updated.changes_requested is not None
    assert updated.changes_requested.title is None
    assert updated.id == project.id
    raw = live.get(f"/v1/organization/audit_logs?limit=100&project_ids[]={project.id}", ADMIN_KEY)[1].decode()
    assert json.loads(raw)["data"][3]["project.updated"] == {
        "id": project.id, "changes_requested": {"name": "logged twice"}, "before": {"name": "logged"},
    }  # fmt: skip
    whole = live.get("/v1/organization/audit_logs?limit=100", ADMIN_KEY)[1].decode()
    for secret in (account.api_key.value, admin.value, ADMIN_KEY):
        assert secret[:11] not in whole
    assert '"ip_address":"127.0.0.1"' in whole
    assert {entry.type for entry in org.audit_logs.list(event_types=["project.archived"])} == {"project.archived"}
    assert {one.type for one in org.audit_logs.list(actor_ids=[admin.id])} == set(types)
    assert [one.type for one in org.audit_logs.list(resource_ids=[account.id])] == ["service_account.created"]
    assert list(org.audit_logs.list(effective_at={"gt": 4_000_000_000})) == []
    page = org.audit_logs.list(project_ids=[project.id], before=entries[4].id, limit=2)
    assert [entry.id for entry in page.data] == [entry.id for entry in entries[2:4]]


POLICY: dict[str, Any] = {"limits": [{"unit": "requests", "amount": 5}], "budgets": [{"amount": 2.5, "per": "day"}]}


def test_whole_policies_are_given_and_taken_at_every_level(live: Live, org: Organization) -> None:
    project = org.projects.create(name="governed")
    status, body = live.post("/v1/organization/users", {"email": "eve@example.com"})
    user = json.loads(body)["id"]
    key_id, _ = key_of(live, tenant=project.id, user_id=user, policy={"priority": "batch"})
    for path in ("policy", f"projects/{project.id}/policy", f"users/{user}/policy",
                 f"projects/{project.id}/api_keys/{key_id}/policy"):  # fmt: skip
        assert put(live, f"/v1/organization/{path}", POLICY) == (200, POLICY)
        assert json.loads(live.get(f"/v1/organization/{path}", ADMIN_KEY)[1]) == POLICY
        assert put(live, f"/v1/organization/{path}", {}) == (200, {})
    status, body = put(live, f"/v1/organization/projects/default/api_keys/{key_id}/policy", {})
    assert (status, body["error"]["code"]) == (404, "key_not_found")


BAD: list[tuple[str, Any, str]] = [
    ("projects", {}, "name"), ("projects", {"name": ""}, "name"), ("projects", {"name": "a\nb"}, "name"),
    ("projects", {"name": "x" * 201}, "name"), ("projects", {"name": 5}, "name"),
    ("projects", {"name": "x", "geography": "eu"}, "geography"),
    ("users", {"email": "nobody"}, "email"), ("users", {"email": "a@b", "role": "king"}, "role"),
    ("invites", {"email": "a@b", "role": "owner", "projects": [{"id": "proj_no", "role": "god"}]}, "projects[0].role"),
    ("admin_api_keys", {"name": "x", "expires_in_seconds": -5}, "expires_in_seconds"),
    ("admin_api_keys", {"name": "x", "expires_in_seconds": 10**15}, "expires_in_seconds"),
    ("projects/default/rate_limits/rl-*", {"max_requests_per_1_minute": -1}, "max_requests_per_1_minute"),
    ("projects/default/rate_limits/rl-*", {"max_requests_per_1_minute": 10**13}, "max_requests_per_1_minute"),
    ("projects/default/rate_limits/rl-*", {"max_images_per_1_minute": 5}, "max_images_per_1_minute"),
    ("projects/default/users", {"role": "member"}, "user_id"),
    ("projects/default/users", {"role": "member", "user_id": "user_no"}, "user_id"),
    ("projects/default/model_permissions", {"mode": "deny_list", "model_ids": [""]}, "model_ids[0]"),
    ("spend_limit", {"threshold_amount": -1}, "threshold_amount"),
    ("spend_limit", {"threshold_amount": 10**12}, "threshold_amount"),
    ("spend_limit", {"threshold_amount": 1, "currency": "EUR"}, "currency"),
    ("spend_alerts", {"threshold_amount": 0, "notification_channel": {"recipients": []}}, "threshold_amount"),
    ("projects/default/spend_stop", {"until": 5.0}, "until"),
    ("policy", {"limits": [{"unit": "requests", "amount": 0}]}, "limits[0].amount"),
    ("policy", {"limits": [{"unit": "bananas", "amount": 1}]}, "limits[0].unit"),
    ("policy", {"limits": [{"unit": "tokens", "amount": 1}] * 2}, "limits[1]"),
    ("policy", {"limits": [{"unit": "tokens", "amount": 1, "color": 1}]}, "limits[0].color"),
    ("policy", {"budgets": [{"amount": -1}]}, "budgets[0].amount"),
    ("policy", {"budgets": [{"amount": 1e8}]}, "budgets[0].amount"),
    ("policy", {"budgets": [{"amount": 1, "at_limit": "downgrade"}]}, "budgets[0].downgrade_to"),
    ("policy", {"models": ["a\u0000b"]}, "models[0]"), ("policy", {"tenants": 1}, "tenants"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "field"), BAD)
def test_a_wrong_field_is_refused_by_its_name(live: Live, path: str, body: Any, field: str) -> None:
    if path == "policy":
        status, answer = put(live, "/v1/organization/policy", body)
    else:
        status, raw = live.post(f"/v1/organization/{path}", body)
        answer = json.loads(raw)
    assert (status, answer["error"]["param"]) == (400, field), answer
    assert answer["error"]["message"]


def test_queries_that_make_no_sense_are_refused_by_their_field(live: Live) -> None:
    for query, field in (("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("after=nobody", "after"),
                         ("color=red", "color"), ("include_archived=perhaps", "include_archived")):  # fmt: skip
        status, body = live.get(f"/v1/organization/projects?{query}", ADMIN_KEY)
        assert (status, json.loads(body)["error"]["param"]) == (400, field)


HOSTILE = ("'; DROP TABLE projects; --", "a%00b", "%F0%9F%98%80", "..", "%25", '"', "proj_' OR '1'='1", "%ED%A0%80")


@pytest.mark.parametrize("name", HOSTILE)
def test_no_id_however_it_is_spelt_does_more_than_not_exist(live: Live, name: str) -> None:
    spelt = name if "%" in name else quote(name, safe="")
    for path in (
        f"projects/{spelt}",
        f"users/{spelt}",
        f"projects/{spelt}/api_keys",
        f"projects/default/users/{spelt}",
    ):
        assert live.get(f"/v1/organization/{path}", ADMIN_KEY)[0] == 404
    assert live.get(f"/v1/organization/projects?after={spelt}", ADMIN_KEY)[0] == 400
    status, body = live.get(f"/v1/organization/audit_logs?actor_ids[]={spelt}&project_ids[]={spelt}", ADMIN_KEY)
    assert (status, json.loads(body)["data"]) == (200, [])


def test_names_in_every_script_and_with_sql_in_them_come_back_as_they_were(live: Live, org: Organization) -> None:
    for name in ("日本語", "Ω ☂ 🜁", "Robert'); DROP TABLE projects;--", "%s %(x)s {0}", 'a"b\\c'):
        project = org.projects.create(name=name)
        assert org.projects.retrieve(project.id).name == name
        _, key = key_of(live, tenant=name, name=name)
        assert models(live, key) == (200, None)
        assert org.projects.retrieve(name).name == name


def test_every_route_refuses_whoever_is_not_an_administrator(live: Live, org: Organization) -> None:
    """Made from the list of routes: a new one fails until it is right. Roles of users make no difference."""
    user = json.loads(live.post("/v1/organization/users", {"email": "own@example.com", "role": "owner"})[1])["id"]
    account = org.projects.service_accounts.create("default", name="robot").api_key
    assert account is not None
    keys = {
        "nobody": (None, 401),
        "a wrong key": ("hg-wrong", 401),
        "a project's key": (key_of(live)[1], 403),
        "an owner's key": (key_of(live, user_id=user)[1], 403),
        "a service account's key": (account.value, 403),
    }
    routes = [route for route in ROUTES if route.path.startswith("/v1/organization")]
    assert len(routes) > 60
    for route in routes:
        assert route.scope == "admin"
        path = re.sub(r"\{[a-z_]+\}", "nobody", route.path)
        for who, (key, expected) in keys.items():
            assert (ask(live, route.method, path, key)[0], who, path) == (expected, who, path)
        assert ask(live, route.method, path, ADMIN_KEY)[0] not in {401, 403, 500}, path


def test_a_stop_is_set_shown_and_released(live: Live, org: Organization) -> None:
    project = org.projects.create(name="spender")
    path = f"/v1/organization/projects/{project.id}/spend_stop"
    status, body = live.post(path, {"until": 4_000_000_000, "reason": "Ten times its usual spend."})
    assert (status, json.loads(body)["reason"]) == (200, "Ten times its usual spend.")
    assert live.get(path, ADMIN_KEY)[0] == 200
    assert ask(live, "DELETE", path, ADMIN_KEY)[0] == 200
    assert live.get(path, ADMIN_KEY)[0] == 404
    types = [entry.type for entry in org.audit_logs.list(project_ids=[project.id])]
    assert types == ["spend_stop.released", "spend_stop.created", "project.created"]

"""A key opens what it may, and nothing tells a stranger why not."""

from typing import Any

import pytest

from headgate.core.errors import Forbidden, Unauthorized
from headgate.core.principal import KeyTable, Principal, Scope, hash_key
from headgate.pipeline.auth import KEY_LENGTH_MAX, Auth, may_use
from tests.clock import VirtualClock
from tests.pipeline.spine import KEY, SECRET


def auth(clock: VirtualClock | None = None, scopes: tuple[Scope, ...] = ("inference",), **more: Any) -> Auth:
    principal = Principal("key_1", "acme", frozenset(scopes), **more)
    return Auth(clock or VirtualClock(), SECRET, KeyTable(1, {hash_key(SECRET, KEY): principal}))


def test_a_known_key_gives_its_principal() -> None:
    assert auth().check(KEY, "inference").key_id == "key_1"


def test_a_hash_depends_on_the_servers_secret_and_does_not_contain_the_key() -> None:
    assert hash_key(b"one", KEY) != hash_key(b"two", KEY)
    assert KEY not in hash_key(SECRET, KEY)
    assert len(hash_key(SECRET, KEY)) == 64


@pytest.mark.parametrize("credential", [None, ""])
def test_a_missing_key_is_told_how_to_send_one(credential: str | None) -> None:
    with pytest.raises(Unauthorized) as refused:
        auth().check(credential, "inference")
    assert refused.value.code == "missing_api_key"
    assert "Authorization: Bearer" in refused.value.message


@pytest.mark.parametrize(
    "credential",
    [KEY + "x", KEY[:-1], KEY.upper(), " " + KEY, "x" * 10_000, "\x00", "ÿ" * 20, "\udc80\ud800", "'; drop table keys"],
    ids=range(9),
)
def test_any_other_text_is_refused_alike(credential: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        auth().check(credential, "inference")
    assert refused.value.code == "invalid_api_key"
    assert credential[:20] not in refused.value.message


def test_an_overlong_credential_is_not_even_hashed() -> None:
    long = "k" * (KEY_LENGTH_MAX + 1)
    strict = Auth(VirtualClock(), SECRET, KeyTable(1, {hash_key(SECRET, long): Principal("k", "t", frozenset())}))
    with pytest.raises(Unauthorized):
        strict.check(long, "inference")


def test_a_key_ends_at_its_expiry_and_not_before() -> None:
    clock = VirtualClock()
    door = auth(clock, expires_at=clock.now() + 10)
    clock.jump(9.999)
    door.check(KEY, "inference")
    clock.jump(0.001)
    with pytest.raises(Unauthorized) as refused:
        door.check(KEY, "inference")
    assert refused.value.code == "expired_api_key"


def test_a_scope_that_the_key_lacks_is_forbidden_by_name() -> None:
    with pytest.raises(Forbidden, match="'admin'") as refused:
        auth().check(KEY, "admin")
    assert refused.value.code == "missing_scope"


def test_admin_does_not_imply_inference() -> None:
    with pytest.raises(Forbidden):
        auth(scopes=("admin",)).check(KEY, "inference")


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        (None, "anything", True),
        ((), "anything", False),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-*", "llama"), "gpt-4o-mini", True),
        (("gpt-*",), "GPT-4o", False),
        (("*",), "org/model:tag", True),
        (("[",), "[", True),
    ],
)
def test_a_keys_model_patterns_decide_what_it_may_use(
    patterns: tuple[str, ...] | None, model: str, allowed: bool
) -> None:
    assert may_use(Principal("k", "t", frozenset(), models=patterns), model) is allowed


def test_a_model_outside_the_patterns_is_forbidden_and_named_in_part_only() -> None:
    with pytest.raises(Forbidden) as refused:
        auth(models=("gpt-*",)).check(KEY, "inference", "x" * 10_000)
    assert refused.value.param == "model"
    assert len(refused.value.message) < 400


def test_replacing_the_table_is_effective_for_the_next_call() -> None:
    door = auth()
    door.check(KEY, "inference")
    door.table = KeyTable(2, {})
    with pytest.raises(Unauthorized):
        door.check(KEY, "inference")

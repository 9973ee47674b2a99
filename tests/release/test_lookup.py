"""What a snapshot says of a name at a time, and what becomes of a call."""

from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headgate.api.errors import error_headers
from headgate.core.switches import HOPS_MAX, KINDS, Diversion, Switch, Switches, is_glob, refusal
from tests.release.desk import switch

NAMES = ["a", "b", "ab", "abc", "gpt-4o", "gpt-4o-mini"]
PATTERNS = [*NAMES, "*", "a*", "gpt-*", "?", "[ab]", "nobody"]
switch_sets = st.lists(
    st.builds(
        switch,
        kind=st.sampled_from(KINDS),
        name=st.sampled_from(PATTERNS),
        id=st.uuids().map(str),
        created_at=st.integers(0, 50).map(float),
        expires_at=st.none() | st.integers(0, 100).map(float),
        fallback_model=st.none() | st.sampled_from(NAMES),
    ),
    max_size=12,
    unique_by=lambda one: (one.kind, one.name),
)
moments = st.integers(0, 100).map(float)


def wanted(switches: list[Switch], kind: str, name: str, now: float) -> Switch | None:
    """The rule, said slowly: of those on that cover it the one of the very name, else the newest pattern."""
    fits = [
        one
        for one in switches
        if one.kind == kind
        and (one.expires_at is None or now < one.expires_at)
        and (one.name == name if not is_glob(one.name) else fnmatchcase(name, one.name))
    ]
    return max(fits, key=lambda one: (not is_glob(one.name), one.created_at, one.id), default=None)


@given(found=switch_sets, name=st.sampled_from(NAMES), now=moments)
def test_the_name_itself_comes_before_patterns_and_the_newest_pattern_first(
    found: list[Switch], name: str, now: float
) -> None:
    snapshot = Switches.of(1, found)
    assert snapshot.model(name, now) == wanted(found, "model", name, now)
    assert snapshot.tenant(name, now) == wanted(found, "tenant", name, now)
    assert snapshot.feature({"feature": name, "else": "a"}, now) == wanted(found, "feature", name, now)
    assert snapshot.feature({"else": name}, now) is None
    assert snapshot.backend(name, name, now) == wanted(found, "backend", name, now)
    replica = wanted(found, "backend", name, now) or wanted(found, "backend", name + "-1", now)
    assert snapshot.backend(name, name + "-1", now) == replica


@given(found=switch_sets, model=st.sampled_from(NAMES), tenant=st.sampled_from(NAMES), tag=st.sampled_from(NAMES),
       now=moments)  # fmt: skip
@example(found=[switch(name="a", fallback_model="b"), switch(name="b", fallback_model="a")], model="a", tenant="x",
         tag="x", now=0.0)  # fmt: skip
def test_a_call_is_refused_left_alone_or_given_a_model_that_is_on(
    found: list[Switch], model: str, tenant: str, tag: str, now: float
) -> None:
    snapshot = Switches.of(1, found)
    verdict = snapshot.judge(model, tenant, {"feature": tag}, now)
    over = [snapshot.tenant(tenant, now), snapshot.feature({"feature": tag}, now)]
    if verdict is None:
        assert snapshot.model(model, now) is None or any(one and one.fallback_model == model for one in over)
        assert all(one is None or one.fallback_model is not None for one in over)
    elif isinstance(verdict, Diversion):
        assert verdict.model != model
        assert snapshot.model(verdict.model, now) is None
        assert verdict.switch.fallback_model is not None
    else:
        assert verdict.on(now)


@given(found=switch_sets, now=moments)
def test_no_switch_is_obeyed_at_or_after_its_end(found: list[Switch], now: float) -> None:
    snapshot = Switches.of(1, found)
    for name in NAMES:
        one = snapshot.model(name, now)
        assert one is None or one.expires_at is None or one.expires_at > now


def test_an_empty_snapshot_turns_nothing_off() -> None:
    empty = Switches()
    assert empty.judge("m", "t", {"feature": "f"}, 0.0) is None
    assert empty.backend("b", "b-1", 0.0) is None
    assert not empty.backends


def test_fallbacks_are_followed_to_one_that_is_on_and_a_circle_refuses() -> None:
    chain = Switches.of(1, [switch(name="a", fallback_model="b"), switch(name="b", fallback_model="c")])
    assert chain.judge("a", "t", {}, 0.0) == Diversion("c", chain.models.exact["a"])
    circle = Switches.of(1, [switch(name="a", fallback_model="b"), switch(name="b", fallback_model="a")])
    assert circle.judge("a", "t", {}, 0.0) == circle.models.exact["a"]
    dead = Switches.of(1, [switch(name="a", fallback_model="b"), switch(name="b")])
    assert dead.judge("a", "t", {}, 0.0) == dead.models.exact["b"]
    long = Switches.of(1, [switch(name=f"m{n}", fallback_model=f"m{n + 1}") for n in range(HOPS_MAX)])
    assert isinstance(long.judge("m1", "t", {}, 0.0), Diversion)
    assert isinstance(long.judge("m0", "t", {}, 0.0), Switch), "longer than anyone means"


def test_a_project_and_a_feature_come_before_the_model() -> None:
    found = [
        switch("tenant", "acme", fallback_model="small"),
        switch("feature", "sums"),
        switch("model", "big", fallback_model="middle"),
    ]
    snapshot = Switches.of(1, found)
    assert snapshot.judge("big", "acme", {}, 0.0) == Diversion("small", found[0])
    assert snapshot.judge("small", "acme", {}, 0.0) is None, "it asks for the fallback already"
    assert snapshot.judge("big", "acme", {"feature": "sums"}, 0.0) == found[1]
    assert snapshot.judge("big", "other", {}, 0.0) == Diversion("middle", found[2])


REFUSALS: list[tuple[dict[str, Any], list[str], bool, float | None]] = [
    ({}, ["model 'gpt-4o'", "another model"], False, None),
    ({"name": "gpt-*"}, ["every model", "'gpt-*'"], False, None),
    ({"kind": "feature", "name": "sums", "message": "Back on Monday."}, ["feature 'sums'", "Back on Monday."], False,
     None),
    ({"kind": "tenant", "name": "acme"}, ["project"], False, None),
    ({"kind": "backend", "name": "openai", "expires_at": 7_200.0}, ["backend 'openai'", "1970-01-01 02:00:00"], False,
     7_190.0),
    ({"expires_at": 30.0}, ["until"], True, 20.0),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "words", "again", "after"), REFUSALS)
def test_a_refusal_names_what_is_off_and_when_to_come_back_never_the_reason(
    fields: dict[str, Any], words: list[str], again: bool, after: float | None
) -> None:
    error = refusal(switch(**fields), 10.0)
    assert (error.status, error.code, error.retry_after, error.retryable) == (503, "switched_off", after, again)
    assert [word for word in words if word.lower() not in error.message.lower()] == []
    assert "INC-1" not in error.message
    headers = dict(error_headers(error))
    assert (headers.get(b"x-should-retry") == b"false") is not again
    assert (b"retry-after" in headers) is (after is not None)

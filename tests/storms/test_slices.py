"""A small slice of each storm, on one server after the other's end: what is counted holds on a busy machine, too."""

from collections.abc import Iterator

import pytest

from tests.storms.freezing import Course, frozen
from tests.storms.retrying import retried
from tests.storms.runs import Size, chaos, faults, hedged, switched
from tests.storms.stand import MAX_EXTRA, Stand, standing

SMALL = Size(rate=40, seconds=1.5)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("storms"), idle_s=0.3, first_token_s=1.2) as stand:
        yield stand


def test_a_backend_that_is_switched_off_under_load_gets_no_call_and_no_call_fails(stand: Stand) -> None:
    assert switched(stand, SMALL)["of_them_at_the_backend"] == 0


def test_hedges_stay_within_their_share(stand: Stand) -> None:
    assert hedged(stand, SMALL, MAX_EXTRA)["with_right"] == 60


def test_a_replica_that_fails_a_third_of_its_calls_fails_no_caller(stand: Stand) -> None:
    assert faults(stand, SMALL, calm_s=0.5)["right"] == 60


def test_a_replica_that_is_stopped_under_load_loses_no_call(stand: Stand) -> None:
    assert frozen(stand, Course(30, 0.3, 1.9, 0.3))[0]["right"] == 75


def test_mixed_chaos_with_a_fallback_gives_right_answers_only(stand: Stand) -> None:
    assert chaos(stand, SMALL)["wrong"] == 0


def test_a_retry_storm_is_not_passed_on(stand: Stand) -> None:
    figures = retried(stand, 40, 0.8)
    assert figures["attempts_at_upstreams"] <= figures["allowed"]

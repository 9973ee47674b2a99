"""A route's own timeouts stand over the backend's, phase by phase."""

from headgate.core.deadline import Timeouts
from headgate.core.rules import Patience


def test_what_a_route_sets_stands_and_the_rest_is_the_backend_s() -> None:
    base = Timeouts(1.0, 2.0, 3.0, 4.0, 5.0)
    assert base.under(Patience()) == base
    assert base.under(Patience(first_token_s=9.0)) == Timeouts(1.0, 9.0, 3.0, 4.0, 5.0)
    assert base.under(Patience(7.0, 7.0, 7.0, 7.0, 7.0)) == Timeouts(7.0, 7.0, 7.0, 7.0, 7.0)


def test_a_route_can_switch_the_floor_off() -> None:
    assert Timeouts(min_tokens_per_s=5.0).under(Patience(min_tokens_per_s=0.0)).min_tokens_per_s == 0.0


def test_a_route_can_set_every_phase_that_a_backend_has() -> None:
    assert Patience.__struct_fields__ == Timeouts.__struct_fields__

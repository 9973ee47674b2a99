"""Which ids a path holds: any path, however long, in time that grows no faster than it does."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from headgate.api.application import ids_in

FORMS = (
    ["/p/", ""],
    ["/p/", "/q"],
    ["/p/", "/q/", ""],
    ["/p/", "/q/", "/r"],
    ["/p/", "/q/", "/q"],
    ["/", "/q/", "/q/q/r"],
)
paths = st.lists(st.sampled_from(["/p", "/q", "/r", "/", "a", "\n"]), max_size=9).map("".join)


@given(path=paths)
@example(path="/p/q/q")
@example(path="/p/a/q/b/q/")
@example(path="/p//q//r")
@example(path="/q/q/r")
def test_ids_are_what_a_greedy_pattern_finds(path: str) -> None:
    for parts in FORMS:
        match = re.fullmatch("(.+)".join(map(re.escape, parts)), path, re.DOTALL)
        assert ids_in(path, parts) == (None if match is None else match.groups())


def test_a_path_made_to_be_slow_is_read_once() -> None:
    """A pattern would take days over it, and the loop would stand still for every caller."""
    slow = "/q/" * 1_000_000
    assert ids_in("/p/a" + slow + "x", ["/p/", "/q/", "/r"]) is None
    assert ids_in("/p/a" + slow + "x/r", ["/p/", "/q/", "/r"]) == ("a" + slow[:-3], "x")

"""Every fault of the table, as it stands on the wire; a fault without a check here fails."""

import json
from collections.abc import Iterator

import pytest

from headgate.bench.chaos.faults import FAULTS, listed, parse
from tests.bench import chaos_checks_line, chaos_checks_said
from tests.bench.chaos_ask import CHECKS, TEXT, Asker, spoken
from tests.upstream.chaos import chaos


@pytest.fixture(scope="module")
def ask() -> Iterator[Asker]:
    with chaos() as up:
        yield Asker(up)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_on_the_wire_as_the_table_says(ask: Asker, name: str) -> None:
    CHECKS[name](ask)
    assert spoken(ask("")) == TEXT, "and the next request is answered honestly"
    assert ask.up.idle()["faults"][name] >= 1


def test_every_fault_has_a_check() -> None:
    modules = {check.__module__ for check in CHECKS.values()}
    assert set(CHECKS) == set(FAULTS)
    assert modules == {chaos_checks_line.__name__, chaos_checks_said.__name__}


def test_the_list_of_faults_names_every_one_and_its_options() -> None:
    for fault in FAULTS.values():
        assert f"{fault.name} " in listed()
        assert all(option in listed() for option in fault.options)
        assert (fault.shape is None) != (fault.act is None)


@pytest.mark.parametrize(
    ("order", "complaint"),
    [
        ("explode", "'explode'"),
        ("cut,before=3", "'before'"),
        ("cut,after=x", "after"),
        ("cut,after=-1", "after"),
        ("no_done=3", "no_done"),
        ("rate=fast", "rate"),
    ],
)
def test_a_wrong_order_is_refused_with_its_name(ask: Asker, order: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(order)
    heard = ask(order)
    assert heard.status == 400
    assert complaint.strip("'") in json.loads(heard.body)["error"]["message"]

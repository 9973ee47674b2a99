"""Money: what is in force, what is more specific, and null for what nobody knows."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.usage import Usage
from headgate.ledger.prices import BUNDLED_BOOK, Price, PriceBook, PriceTable, amount_nanos, read_book


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def price(model: str, cost: float, since: str = "2020-01-01", **more: Any) -> Price:
    return Price(model=model, effective=date.fromisoformat(since), input=cost, output=cost, **more)


def found(*prices: Price, model: str = "m", backend: str = "b", when: str = "2026-01-01") -> float | None:
    price = PriceTable(PriceBook("v", prices)).find(backend, model, at(when))
    return price.input if price else None


def test_a_price_holds_from_its_effective_day_on() -> None:
    prices = (price("m", 1, "2025-01-01"), price("m", 2, "2026-01-01"))
    days = {when: found(*prices, when=when) for when in ("2024-12-31", "2025-01-01", "2025-12-31", "2026-01-01")}
    assert list(days.values()) == [None, 1, 1, 2]


def test_the_order_in_the_file_does_not_make_an_old_price_win() -> None:
    assert found(price("m", 2, "2026-01-01"), price("m", 1, "2025-01-01")) == 2


def test_a_name_wins_over_a_pattern_and_a_longer_pattern_over_a_shorter_one_however_new() -> None:
    prices = (price("gpt-4o", 3), price("gpt-4o-mini*", 2), price("gpt-4o*", 1, "2025-06-01"), price("*", 9))
    assert found(*prices, model="gpt-4o-mini-2024") == 2
    assert found(*prices, model="gpt-4o") == 3
    assert found(*prices, model="gpt-4o-audio") == 1
    assert found(*prices, model="llama") == 9


def test_a_price_for_one_backend_wins_there_only() -> None:
    prices = (price("gpt-4o", 3), price("*", 0, backend="embedded"))
    assert found(*prices, model="gpt-4o", backend="embedded") == 0
    assert found(*prices, model="gpt-4o", backend="openai") == 3


def test_among_equals_the_last_in_the_file_wins() -> None:
    assert found(price("m", 1), price("m", 2)) == 2


def test_an_unknown_model_has_no_price_rather_than_none_to_pay() -> None:
    assert found(price("gpt-*", 1), model="llama") is None


def test_cached_and_written_tokens_have_their_own_price_or_that_of_input() -> None:
    usage = Usage(input=1_000_000, cached=400_000, cache_write=100_000, output=2_000_000, reasoning=1_000_000)
    since = date(2020, 1, 1)
    assert Price("m", since, input=10, output=20, cached=1, cache_write=12).cost_nanos(usage) == 46_600_000_000
    assert Price("m", since, input=10, output=20).cost_nanos(usage) == 50_000_000_000


def test_an_hours_cache_and_reasoning_have_their_own_price_where_one_is_given() -> None:
    usage = Usage(input=1_000_000, cache_write=500_000, output=2_000_000, reasoning=1_500_000)
    since = date(2020, 1, 1)
    own = Price("m", since, input=10, output=20, cache_write=12, cache_write_1h=16, reasoning=4)
    assert own.cost_nanos(usage) == 27_000_000_000
    assert own.cost_nanos(usage, hour_writes=200_000) == 27_800_000_000
    assert Price("m", since, input=10, output=20, cache_write=12).cost_nanos(usage, hour_writes=200_000) == 51 * 10**9


PRICES = st.one_of(st.none(), st.floats(0, 1000))


@given(PRICES, PRICES, PRICES, PRICES, st.data())
def test_no_use_of_so_many_tokens_costs_more_than_the_ceiling(
    cached: float | None, write: float | None, hour: float | None, thought: float | None, data: st.DataObject
) -> None:
    price = Price("m", date(2020, 1, 1), 2.5, 10, cached, write, hour, thought)
    most = data.draw(st.integers(0, 10**6))
    read = data.draw(st.integers(0, most))
    written = data.draw(st.integers(0, most - read))
    said = data.draw(st.integers(0, 10**6))
    usage = Usage(most, read, written, said, data.draw(st.integers(0, said)))
    spent = price.cost_nanos(usage, data.draw(st.integers(0, written)))
    assert 0 <= spent <= price.ceiling_nanos(most, said)


def test_an_amount_is_exact_where_floats_are_not() -> None:
    assert amount_nanos(3, 0.1) == 300
    assert amount_nanos(1, 0.0005) == 0
    assert amount_nanos(3, 0.0005) == 2
    assert amount_nanos(10**15, 0.15) == 150_000_000_000_000_000


def test_more_cached_than_input_costs_no_negative_money() -> None:
    assert Price("m", date(2020, 1, 1), input=10, output=20, cached=0).cost_nanos(Usage(input=5, cached=50)) == 0


def test_look_ups_are_remembered_in_bounded_number() -> None:
    table = PriceTable(PriceBook("v", (price("*", 1),)))
    assert table.find("b", "m", at("2026-01-01")) is table.find("b", "m", at("2026-01-01T23:00"))
    for number in range(3 * PriceTable.REMEMBERED_MAX):
        table.find("b", f"m{number}", at("2026-01-01"))
    assert len(table._found) <= PriceTable.REMEMBERED_MAX


def test_the_bundled_book_is_good_and_prices_our_own_engine_at_nothing() -> None:
    table = PriceTable(read_book(BUNDLED_BOOK))
    own = table.find("embedded", "headgate-demo", at("2026-11-21"))
    assert own is not None
    assert own.cost_nanos(Usage(input=5, output=5)) == 0
    assert table.find("somewhere", "a-model-nobody-knows", at("2026-11-21")) is None
    mini = table.find("openai", "gpt-4o-mini-2024-07-18", at("2026-11-21"))
    assert mini is not None
    assert mini.input == 0.15


@pytest.mark.parametrize(
    "text",
    [
        "", "version = 1", 'version = ""', "not toml", 'version = "1"\n[[price]]\nmodel = "m"',
        'version = "1"\n[[price]]\nmodel = "m"\neffective = 2025-01-01\ninput = -1\noutput = 1',
        'version = "1"\n[[price]]\nmodel = "m"\neffective = 2025-01-01\ninput = inf\noutput = 1',
        'version = "1"\n[[price]]\nmodel = "m"\neffective = "soon"\ninput = 1\noutput = 1',
        'version = "1"\n[[price]]\nmodel = "m"\neffective = 2025-01-01\ninput = 1\noutput = 1\nextra = 1',
    ],
    ids=range(9),
)  # fmt: skip
def test_a_bad_book_is_refused_with_its_name_and_where_to_read(tmp_path: Path, text: str) -> None:
    book = tmp_path / "mine.toml"
    book.write_text(text)
    with pytest.raises(ValueError, match=r"mine.toml: not a price book.*docs/reference/prices.md"):
        read_book(book)


def test_a_missing_book_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.toml"):
        read_book(tmp_path / "nowhere.toml")


ENTRY = '[[price]]\nmodel = "{}"\neffective = 2025-01-01\ninput = {}\noutput = 2\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ENTRY.format("a", 1) + ENTRY.format("b", -1), r"not a price book: .*price\[1\].input.*line 7"),
        (ENTRY.format("a", 1) + ENTRY.format("b", 10**7), r"price\[1\].input.*line 7"),
        (ENTRY.format("a", 1) + ENTRY.format("b", 2.5e-6), r"price\[1\].input: .*per million tokens .*line 7"),
        (ENTRY.format("a", 1) + "cached = 3", r"price\[0\].cached: costs more than input.*line 2"),
        (
            ENTRY.format("a", 1) * 2,
            r"price\[1\]: 'a' on '\*' has two prices from 2025-01-01.*price\[0\]; keep one.*line 7",
        ),
    ],
)
def test_absurd_prices_and_two_from_the_same_day_are_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    book = tmp_path / "mine.toml"
    book.write_text('version = "1"\n' + text)
    with pytest.raises(ValueError, match=r"mine.toml: .*" + said):
        read_book(book)

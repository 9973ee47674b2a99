"""What tokens cost: a price book with effective dates, read from a data file into a snapshot."""

import math
import re
import tomllib
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from headgate.core.usage import Usage

BUNDLED_BOOK = Path(__file__).with_name("prices.toml")
PRICE_MAX = 100_000
"""US dollars per million tokens; what is dearer is a slip of the pen."""
PRICE_MIN = 0.0001
"""What is cheaper, and not free, is a price per token or per thousand."""
_Price = Annotated[float, Meta(ge=0, le=PRICE_MAX)]
Kind = Literal["input", "cached", "cache_write", "output", "reasoning"]
"""A kind of token with a price of its own. `input` and `output` are here what the other kinds leave of them."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens of the models that match `model` (a glob), from `effective` on.

    Cached input costs `cached`, cache writes `cache_write`, and reasoning `reasoning`, where given; else as input, as
    input and as output.
    """

    model: str
    effective: date
    input: _Price
    output: _Price
    cached: _Price | None = None
    cache_write: _Price | None = None
    """Of what the provider keeps for its shortest time, such as five minutes."""
    cache_write_1h: _Price | None = None
    """Of what it keeps for an hour; as `cache_write` where left out."""
    reasoning: _Price | None = None
    backend: str = "*"
    """Only on backends that match; a self-hosted model may share a provider's name and not its price."""

    def usd_per_million(self, kind: Kind) -> float:
        """The price that counts for a kind of token."""
        own: dict[Kind, float | None] = {
            "cached": self.cached,
            "cache_write": self.cache_write,
            "reasoning": self.reasoning,
        }
        found = own.get(kind)
        if found is not None:
            return found
        return self.output if kind in {"output", "reasoning"} else self.input

    def cost_nanos(self, usage: Usage, hour_writes: int = 0) -> int:
        """Whole nanodollars, rounded once: sums of costs are exact from here on.

        `hour_writes` is the part of `usage.cache_write` that was kept for an hour.
        """
        cached = self.input if self.cached is None else self.cached
        write = self.input if self.cache_write is None else self.cache_write
        hour = write if self.cache_write_1h is None else self.cache_write_1h
        thought = self.output if self.reasoning is None else self.reasoning
        plain = max(0, usage.input - usage.cached - usage.cache_write)
        said = max(0, usage.output - usage.reasoning)
        short = usage.cache_write - hour_writes
        taken = plain * self.input + usage.cached * cached + short * write + hour_writes * hour
        return round((taken + said * self.output + usage.reasoning * thought) * 1_000)

    def ceiling_nanos(self, input_tokens: int, output_tokens: int) -> int:
        """The most that so many tokens can cost, whatever part of them is cached, written or reasoning: rounded up."""
        taken = max(self.input, self.cached or 0.0, self.cache_write or 0.0, self.cache_write_1h or 0.0)
        given = max(self.output, self.reasoning or 0.0)
        return math.ceil((input_tokens * taken + output_tokens * given) * 1_000)


def amount_nanos(tokens: int, usd_per_million: float) -> int:
    """What so many tokens cost at a price, in whole nanodollars, halves to the even one."""
    return int((tokens * Decimal(str(usd_per_million)) * 1_000).to_integral_value())


class PriceBook(Struct, frozen=True, forbid_unknown_fields=True):
    """The file: a version for the receipts, and prices.

    Of the entries that match, one that names a backend wins over one that does not, then the one that says more of
    the model's name, then the newest in force, then the last in the file.
    """

    version: Annotated[str, Meta(min_length=1, max_length=100)]
    price: tuple[Price, ...] = ()


class PriceTable:
    """A snapshot of a price book. Look-ups are remembered per backend, model and day, and are bounded in number."""

    REMEMBERED_MAX = 4_096

    def __init__(self, book: PriceBook) -> None:
        self.version = book.version
        self._prices = book.price
        self._found: dict[tuple[str, str, int], Price | None] = {}

    def find(self, backend: str, model: str, at: float) -> Price | None:
        """The price in force at Unix second `at`, or None where the book has none: never 0 for unknown."""
        key = (backend, model, int(at // 86_400))
        if key not in self._found:
            if len(self._found) >= self.REMEMBERED_MAX:
                self._found.clear()
            self._found[key] = self._search(backend, model, datetime.fromtimestamp(at, UTC).date())
        return self._found[key]

    def _search(self, backend: str, model: str, day: date) -> Price | None:
        matching = [
            (_rank(price), place, price)
            for place, price in enumerate(self._prices)
            if price.effective <= day and fnmatchcase(model, price.model) and fnmatchcase(backend, price.backend)
        ]
        return max(matching)[2] if matching else None


def _rank(price: Price) -> tuple[int, bool, int, date]:
    """Letters that a pattern fixes say how much it means; a name without signs means exactly one model."""
    exact = not any(sign in price.model for sign in "*?[")
    return len(price.backend.replace("*", "")), exact, len(price.model.replace("*", "")), price.effective


def read_book(path: Path) -> PriceBook:
    """Raises `ValueError` with file, place and remedy where the file is not a price book."""
    try:
        text = path.read_text("utf-8")
        book = msgspec.convert(tomllib.loads(text), PriceBook)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        place = re.search(r"price\[(\d+)\]", str(error))
        where = _line(text, int(place[1])) if place else ""
        raise ValueError(
            f"{path}: not a price book: {error}{where}. Expected 'version' and [[price]] tables; "
            "see docs/reference/prices.md"
        ) from error
    try:
        check_book(book)
    except BadPrice as error:
        raise ValueError(f"{path}: {error}{_line(text, error.index)}; see docs/reference/prices.md") from error
    return book


class BadPrice(ValueError):
    """A price that fits its type and no world."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"price[{index}]{message}")
        self.index = index


def check_book(book: PriceBook) -> None:
    """What types cannot say. Raises `BadPrice` naming the field and the remedy."""
    seen: dict[tuple[str, str, date], int] = {}
    for index, price in enumerate(book.price):
        given = {
            "input": price.input,
            "output": price.output,
            "cached": price.cached,
            "cache_write": price.cache_write,
            "cache_write_1h": price.cache_write_1h,
            "reasoning": price.reasoning,
        }
        for field, value in given.items():
            if value and value < PRICE_MIN:
                raise BadPrice(index, f".{field}: {value} is next to nothing; prices are US dollars per million tokens")
        if price.cached is not None and price.cached > price.input:
            raise BadPrice(index, ".cached: costs more than input; no provider charges that, so swap the two")
        same = (price.model, price.backend, price.effective)
        if same in seen:
            raise BadPrice(
                index,
                f": '{price.model}' on '{price.backend}' has two prices from {price.effective} on, this one and "
                f"price[{seen[same]}]; keep one, or give the newer its own 'effective' day",
            )
        seen[same] = index


def _line(text: str, index: int) -> str:
    """Where the entry stands in the file, as far as that can be seen from its lines."""
    lines = [number for number, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*price\s*\]\]", line)]
    return f" (the entry at line {lines[index]})" if index < len(lines) else ""

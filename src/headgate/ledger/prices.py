"""What tokens cost: a price book with effective dates, read from a data file into a snapshot."""

import math
import tomllib
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headgate.core.usage import Usage

BUNDLED_BOOK = Path(__file__).with_name("prices.toml")
_Price = Annotated[float, Meta(ge=0, le=1_000_000)]


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """US dollars per million tokens of the models that match `model` (a glob), from `effective` on.

    Cached input costs `cached`, and cache writes `cache_write`, where given; else both cost as input. Reasoning is
    output.
    """

    model: str
    effective: date
    input: _Price
    output: _Price
    cached: _Price | None = None
    cache_write: _Price | None = None
    backend: str = "*"
    """Only on backends that match; a self-hosted model may share a provider's name and not its price."""

    def cost_nanos(self, usage: Usage) -> int:
        """Whole nanodollars, rounded once: sums of costs are exact from here on."""
        cached = self.input if self.cached is None else self.cached
        write = self.input if self.cache_write is None else self.cache_write
        plain = max(0, usage.input - usage.cached - usage.cache_write)
        millionths = plain * self.input + usage.cached * cached + usage.cache_write * write + usage.output * self.output
        return round(millionths * 1_000)

    def ceiling_nanos(self, input_tokens: int, output_tokens: int) -> int:
        """The most that so many tokens can cost, however they turn out to be cached: rounded up."""
        dearest = max(self.input, self.cached or 0.0, self.cache_write or 0.0)
        return math.ceil((input_tokens * dearest + output_tokens * self.output) * 1_000)


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
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), PriceBook)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ValueError(
            f"{path}: not a price book: {error}. Expected 'version' and [[price]] tables; see docs/reference/prices.md"
        ) from error

"""Providers' usage and cost files: what they have in common, and reading them whole, with errors that name the place.

Amounts are decimals from the file's own digits; no float comes between.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from headgate.core.errors import BadCall

FILE_BYTES_MAX = 256 * 1024 * 1024
DAY_S = 86_400
Sort = Literal["usage", "costs"]
_THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d*)?")


class Billed(Struct, frozen=True, kw_only=True):
    """One row of a file: tokens, or money, of one model on one day. Parts of input are as in `core.usage.Usage`."""

    day: int
    """Days from 1970."""
    model: str
    """Empty where the file does not say."""
    requests: int = 0
    input: int = 0
    cached: int = 0
    cache_write: int = 0
    hour_writes: int = 0
    """The part of `cache_write` that was kept for an hour."""
    output: int = 0
    usd: Decimal = Decimal(0)
    project: str = ""
    api_key: str = ""


class ProviderFile(Struct, frozen=True, kw_only=True):
    """What a file says of the days [`first`, `end`), which it covers from midnight to midnight."""

    name: str
    sort: Sort
    operations: tuple[str, ...]
    """Which of our operations it covers; all where empty."""
    first: int
    end: int
    rows: tuple[Billed, ...]


class Spot:
    """A place in a file, and the fields there."""

    def __init__(self, file: str, where: str, fields: Mapping[str, Any]) -> None:
        self.file = file
        self.where = where
        self.fields = fields

    def wrong(self, message: str) -> BadCall:
        return BadCall(f"{self.file}: {self.where}: {message}", code="bad_file")

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        return value.strip() if isinstance(value, str) else ""

    def number(self, name: str) -> Decimal:
        """An absent or empty one is 0. Raises `BadCall`."""
        value = self.fields.get(name)
        if value is None or value == "":
            return Decimal(0)
        try:
            if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
                raise InvalidOperation
            if isinstance(value, str) and "," in value and not _THOUSANDS.fullmatch(value.strip()):
                raise InvalidOperation  # a decimal comma: without it there would be a hundred times as much
            number = Decimal(value.replace(",", "") if isinstance(value, str) else value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or abs(number) >= 10**15:
            raise self.wrong(f"'{name}' must be a number, not {str(value)[:40]!r}; export the file again")
        return number

    def count(self, name: str) -> int:
        """A number of tokens or requests. Raises `BadCall`."""
        number = self.number(name)
        if number < 0 or number != number.to_integral_value():
            raise self.wrong(
                f"'{name}' must be a whole number that is not negative, not {number}; export the file again"
            )
        return int(number)

    def seconds(self, *names: str) -> float:
        """A time, as Unix seconds or in ISO 8601, of the first field that is there. Raises `BadCall`."""
        for name in names:
            value = self.fields.get(name)
            if value is None or value == "":
                continue
            try:
                return float(value)
            except (TypeError, ValueError):
                pass
            try:
                found = datetime.fromisoformat(str(value))
                return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
            except ValueError:
                raise self.wrong(f"'{name}' is no time: {str(value)[:40]!r}; export the file again") from None
        raise self.wrong(f"'{names[0]}' is missing; export the file again")

    def day(self, name: str) -> int:
        """Raises `BadCall`."""
        try:
            return (date.fromisoformat(self.text(name)[:10]) - date(1970, 1, 1)).days
        except ValueError:
            raise self.wrong(f"'{name}' is no day: {self.text(name)[:40]!r}; export the file again") from None

    def dollars_only(self, name: str) -> None:
        currency = self.text(name).lower()
        if currency not in {"", "usd"}:
            raise self.wrong(f"the currency is {currency[:10]!r}; only US dollars can be compared")


class Bucket(Struct, frozen=True):
    start: float
    end: float
    spot: Spot
    results: list[Spot]


def read_text(path: Path) -> str:
    """Raises `BadCall` with the file's name."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise BadCall(f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB; export fewer days at once", code="bad_file")
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise BadCall(f"{path}: cannot be read: {error.strerror}", code="bad_file") from error
    except UnicodeDecodeError as error:
        raise BadCall(f"{path}: byte {error.start} is not UTF-8; export the file again", code="bad_file") from error


def json_pages(file: str, text: str) -> list[tuple[str, Any]]:
    """The pages of a file, each with its place: one object, a list of them, or one a line. Raises `BadCall`."""
    try:
        whole = _json(text)
        pages = whole if isinstance(whole, list) else [whole]
        return [(f"page {number}" if len(pages) > 1 else "", page) for number, page in enumerate(pages, 1)]
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise _no_json(file, error.lineno, error.msg) from error
    pages_by_line = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                pages_by_line.append((f"line {number}", _json(line)))
            except json.JSONDecodeError as error:
                raise _no_json(file, number, error.msg) from error
    return pages_by_line


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_float=Decimal)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, 0) from None


def _no_json(file: str, line: int, message: str) -> BadCall:
    return BadCall(f"{file}: line {line}: no JSON: {message}; save the provider's answer as it came", code="bad_file")


def buckets(file: str, pages: Sequence[tuple[str, Any]], start: str, end: str) -> Iterator[Bucket]:
    """The buckets of pages `{"data": [{start, end, "results": []}]}`, each once and one after the other.

    Providers give an empty bucket where there was nothing; so a gap is a page that was not saved, and what it says
    would be corrected away. Raises `BadCall`.
    """
    seen: dict[float, float] = {}
    for where, page in pages:
        prefix = f"{where}: " if where else ""
        data = page.get("data") if isinstance(page, dict) else None
        if not isinstance(data, list):
            raise BadCall(f"{file}: {prefix}no 'data' list; save the provider's answer as it came", code="bad_file")
        for number, found in enumerate(data):
            spot = Spot(file, f"{prefix}data[{number}]", found if isinstance(found, dict) else {})
            results = spot.fields.get("results", spot.fields.get("result"))
            if not isinstance(results, list):
                raise spot.wrong("no 'results' list; save the provider's answer as it came")
            bucket = Bucket(spot.seconds(start), spot.seconds(end), spot, [])
            if bucket.start in seen:
                raise spot.wrong(f"this bucket stands twice (start {bucket.start:.0f}); keep each page once")
            seen[bucket.start] = bucket.end
            check_span(spot, bucket.start, bucket.end)
            for place, result in enumerate(results):
                fields = result if isinstance(result, dict) else {}
                bucket.results.append(Spot(file, f"{spot.where}.results[{place}]", fields))
            yield bucket
    for (_, end_before), (start_after, _) in pairwise(sorted(seen.items())):
        if start_after != end_before:
            raise BadCall(
                f"{file}: the buckets do not follow each other: one ends at {end_before:.0f}, the next begins at "
                f"{start_after:.0f}; save every page ('next_page'), of one bucket width",
                code="bad_file",
            )


def check_span(spot: Spot, start: float, end: float) -> None:
    """Raises `BadCall` for a bucket that does not lie within one day: it could not be compared by day."""
    if not 0 <= start < end <= start // DAY_S * DAY_S + DAY_S:
        raise spot.wrong("this bucket does not lie within one day (UTC); export with a bucket width of 1d, 1h or 1m")


def csv_rows(file: str, text: str) -> tuple[tuple[str, ...], Iterator[Spot]]:
    """The header, lower case, and the rows with their lines. Raises `BadCall`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(name.strip().lower() for name in next(reader, []))
    except csv.Error as error:
        raise BadCall(f"{file}: line 1: no CSV: {error}; export the file again", code="bad_file") from error

    def rows() -> Iterator[Spot]:
        try:
            for cells in reader:
                spot = Spot(file, f"line {reader.line_num}", dict(zip(header, cells, strict=False)))
                if cells and len(cells) != len(header):
                    raise spot.wrong(f"{len(cells)} cells under {len(header)} columns; export the file again")
                if any(cells):
                    yield spot
        except csv.Error as error:
            raise BadCall(
                f"{file}: line {reader.line_num}: no CSV: {error}; export the file again", code="bad_file"
            ) from error

    return header, rows()


def whole_days(spans: Sequence[tuple[float, float]]) -> tuple[int, int]:
    """The days that lie between the first span's start and the last one's end."""
    if not spans:
        return 0, 0
    first, end = min(start for start, _ in spans), max(end for _, end in spans)
    return int(-(-first // DAY_S)), int(end // DAY_S)


Parser = Callable[[str, str], ProviderFile]
"""From a file's name and its text. Raises `BadCall` with file, place and remedy."""

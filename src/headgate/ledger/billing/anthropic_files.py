"""Anthropic's files: pages of the Admin API's `usage_report/messages` and `cost_report` as they came, and the CSV
exports of the Console (usage and cost).

Their input counts exclude what was cached; ours include it. The cost report's amounts are cents.
"""

from headgate.core.errors import BadCall
from headgate.ledger.billing.provider_files import (
    DAY_S,
    Billed,
    ProviderFile,
    Sort,
    Spot,
    buckets,
    csv_rows,
    json_pages,
    whole_days,
)

MESSAGES = ("chat", "completion", "passthrough")
"""Through the latter go the providers' newer endpoints, such as Responses: their usage is among the same figures."""


def parse(file: str, text: str) -> ProviderFile:
    """Raises `BadCall` with file, place and remedy."""
    return _parse_json(file, text) if text.lstrip()[:1] in {"{", "["} else _parse_csv(file, text)


def _parse_json(file: str, text: str) -> ProviderFile:
    sorts: set[Sort] = set()
    spans: list[tuple[float, float]] = []
    rows: list[Billed] = []
    for bucket in buckets(file, json_pages(file, text), "starting_at", "ending_at"):
        spans.append((bucket.start, bucket.end))
        for spot in bucket.results:
            if "amount" not in spot.fields and "uncached_input_tokens" not in spot.fields:
                raise spot.wrong(
                    "neither 'amount' nor 'uncached_input_tokens'; export usage_report/messages or cost_report"
                )
            sorts.add("costs" if "amount" in spot.fields else "usage")
            if len(sorts) > 1:
                raise spot.wrong("another kind of result than before; give each kind a file of its own")
            day = int(bucket.start // DAY_S)
            rows.append(_usage(spot, day) if "usage" in sorts else _cost(spot, day))
    first, end = whole_days(spans)
    sort = sorts.pop() if sorts else "usage"
    operations = MESSAGES if sort == "usage" else ()
    return ProviderFile(name=file, sort=sort, operations=operations, first=first, end=end, rows=tuple(rows))


def _usage(spot: Spot, day: int) -> Billed:
    model = spot.text("model")
    if not model:
        raise spot.wrong("no 'model'; export usage grouped by model (group_by[]=model)")
    creation = spot.fields.get("cache_creation")
    cache = Spot(spot.file, spot.where + ".cache_creation", creation if isinstance(creation, dict) else {})
    hour = cache.count("ephemeral_1h_input_tokens")
    return _tokens(
        spot,
        Billed(day=day, model=model, project=spot.text("workspace_id"), api_key=spot.text("api_key_id")),
        ("uncached_input_tokens", "cache_read_input_tokens", "output_tokens"),
        (cache.count("ephemeral_5m_input_tokens"), hour),
    )


def _cost(spot: Spot, day: int) -> Billed:
    """What is no model, such as web search, has none."""
    spot.dollars_only("currency")
    model = spot.text("model")
    if not model and spot.text("cost_type") in {"", "tokens"}:
        raise spot.wrong("no 'model'; export costs grouped by description (group_by[]=description)")
    return Billed(day=day, model=model, usd=spot.number("amount") / 100, project=spot.text("workspace_id"))


def _parse_csv(file: str, text: str) -> ProviderFile:
    header, spots = csv_rows(file, text)
    if "usage_date_utc" not in header or not {"usage_input_tokens_no_cache", "cost_usd"} & set(header):
        raise BadCall(
            f"{file}: line 1: no CSV of Anthropic's Console: 'usage_date_utc' and 'usage_input_tokens_no_cache' or "
            "'cost_usd' are not among its columns; export Usage or Cost there",
            code="bad_file",
        )
    sort: Sort = "costs" if "cost_usd" in header else "usage"
    rows = tuple(_csv_cost(spot) if sort == "costs" else _csv_usage(spot) for spot in spots)
    days = [row.day for row in rows]
    first, end = (min(days), max(days) + 1) if days else (0, 0)
    operations = MESSAGES if sort == "usage" else ()
    return ProviderFile(name=file, sort=sort, operations=operations, first=first, end=end, rows=rows)


def _csv_usage(spot: Spot) -> Billed:
    model = spot.text("model_version")
    if not model:
        raise spot.wrong("no 'model_version'; export the file again")
    written = "usage_input_tokens_cache_write"
    return _tokens(
        spot,
        Billed(
            day=spot.day("usage_date_utc"), model=model, project=spot.text("workspace"), api_key=spot.text("api_key")
        ),
        ("usage_input_tokens_no_cache", "usage_input_tokens_cache_read", "usage_output_tokens"),
        (spot.count(f"{written}_5m") + spot.count(written), spot.count(f"{written}_1h")),
    )


def _csv_cost(spot: Spot) -> Billed:
    return Billed(
        day=spot.day("usage_date_utc"),
        model=spot.text("model"),
        usd=spot.number("cost_usd"),
        project=spot.text("workspace"),
        api_key=spot.text("api_key"),
    )


def _tokens(spot: Spot, row: Billed, names: tuple[str, str, str], writes: tuple[int, int]) -> Billed:
    """Fills in the tokens: uncached, read and output by their names, and what was written for 5 minutes and an hour."""
    plain, read, output = (spot.count(name) for name in names)
    return Billed(
        day=row.day,
        model=row.model,
        input=plain + read + sum(writes),
        cached=read,
        cache_write=sum(writes),
        hour_writes=writes[1],
        output=output,
        project=row.project,
        api_key=row.api_key,
    )

"""OpenAI's files: pages of `/v1/organization/usage/completions`, `…/usage/embeddings` and `…/costs` as they came, and
the CSV exports of the usage dashboard (activity and cost).
"""

from decimal import Decimal

from headgate.core.errors import BadCall
from headgate.ledger.billing.provider_files import (
    DAY_S,
    Billed,
    ProviderFile,
    Sort,
    Spot,
    buckets,
    check_span,
    csv_rows,
    json_pages,
    whole_days,
)

COMPLETIONS = ("chat", "completion", "passthrough")
"""Through the latter go the providers' newer endpoints, such as Responses: their usage is among the same figures."""
EMBEDDINGS = ("embedding",)
_OBJECTS: dict[str, tuple[Sort, tuple[str, ...]]] = {
    "organization.usage.completions.result": ("usage", COMPLETIONS),
    "organization.usage.embeddings.result": ("usage", EMBEDDINGS),
    "organization.costs.result": ("costs", ()),
}


def parse(file: str, text: str) -> ProviderFile:
    """Raises `BadCall` with file, place and remedy."""
    return _parse_json(file, text) if text.lstrip()[:1] in {"{", "["} else _parse_csv(file, text)


def _parse_json(file: str, text: str) -> ProviderFile:
    kinds: set[tuple[Sort, tuple[str, ...]]] = set()
    spans: list[tuple[float, float]] = []
    rows: list[Billed] = []
    for bucket in buckets(file, json_pages(file, text), "start_time", "end_time"):
        spans.append((bucket.start, bucket.end))
        for spot in bucket.results:
            kind = _OBJECTS.get(spot.text("object"))
            if kind is None:
                raise spot.wrong(
                    f"'object' is {spot.text('object')[:60]!r}; known are {', '.join(_OBJECTS)}: "
                    "export usage of completions or embeddings, or costs"
                )
            kinds.add(kind)
            if len(kinds) > 1:
                raise spot.wrong("another kind of result than before; give each kind a file of its own")
            amount = spot.fields.get("amount")
            money = Spot(file, spot.where + ".amount", amount if isinstance(amount, dict) else {})
            day = int(bucket.start // DAY_S)
            rows.append(_usage(spot, day) if kind[0] == "usage" else _cost(spot, money, "currency", "value", day))
    sort, operations = kinds.pop() if kinds else ("usage", COMPLETIONS)
    first, end = whole_days(spans)
    return ProviderFile(name=file, sort=sort, operations=operations, first=first, end=end, rows=tuple(rows))


def _parse_csv(file: str, text: str) -> ProviderFile:
    header, spots = csv_rows(file, text)
    if "amount_value" in header:
        sort: Sort = "costs"
        operations: tuple[str, ...] = ()
    elif "input_tokens" in header and "model" in header:
        sort, operations = "usage", COMPLETIONS if "output_tokens" in header else EMBEDDINGS
    else:
        raise BadCall(
            f"{file}: line 1: no CSV of OpenAI's usage dashboard: neither 'amount_value' nor 'input_tokens' and "
            "'model' among its columns; export Activity (by model) or Cost (by line item)",
            code="bad_file",
        )
    spans: list[tuple[float, float]] = []
    rows: list[Billed] = []
    for spot in spots:
        start, end = spot.seconds("start_time", "start_time_iso"), spot.seconds("end_time", "end_time_iso")
        check_span(spot, start, end)
        spans.append((start, end))
        day = int(start // DAY_S)
        if sort == "costs":
            if spot.text("amount_value"):
                rows.append(_cost(spot, spot, "amount_currency", "amount_value", day))
        elif spot.text("model") or spot.text("input_tokens"):
            rows.append(_usage(spot, day))
    first, last = whole_days(spans)
    return ProviderFile(name=file, sort=sort, operations=operations, first=first, end=last, rows=tuple(rows))


def _usage(spot: Spot, day: int) -> Billed:
    model = spot.text("model")
    if not model:
        raise spot.wrong("no 'model'; export usage grouped by model (group_by=model)")
    cached, written, taken = (
        spot.count("input_cached_tokens"),
        spot.count("input_cache_write_tokens"),
        spot.count("input_tokens"),
    )
    if cached + written > taken:
        raise spot.wrong(f"more cached tokens ({cached + written}) than input tokens ({taken}); export the file again")
    return Billed(
        day=day,
        model=model,
        requests=spot.count("num_model_requests"),
        input=taken,
        cached=cached,
        cache_write=written,
        output=spot.count("output_tokens"),
        project=spot.text("project_id"),
        api_key=spot.text("api_key_id"),
    )


def _cost(spot: Spot, money: Spot, currency: str, value: str, day: int) -> Billed:
    """A line item such as `gpt-4o-2024-08-06, input` begins with its model."""
    money.dollars_only(currency)
    if value not in money.fields:
        raise money.wrong(f"'{value}' is missing; export the file again")
    usd: Decimal = money.number(value)
    model = spot.text("line_item").partition(",")[0].strip()
    if usd and not model:
        raise spot.wrong("no 'line_item'; export costs grouped by line item (group_by=line_item)")
    return Billed(day=day, model=model, usd=usd, project=spot.text("project_id"), api_key=spot.text("api_key_id"))

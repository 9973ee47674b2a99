"""The filters that a chat template has, and how large the results of those are that grow.

Left out are Jinja's for HTML and prose, whose work or result has no bound that is easy to see.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from jinja2 import filters, pass_context
from jinja2.runtime import Context

from headgate.backends.template_budget import Overrun, budget_of

MAX_WIDTH = 16
AT_ONCE = frozenset({"attr", "count", "d", "default", "first", "last", "length"})
"""Filters that take no longer for large values: templates ask for the number of messages at every message."""
_WIDE = re.compile(r"%[^%a-zA-Z]*(?:\d{3}|\*)")
_PLAIN = """
    abs attr capitalize count d default dictsort e escape first float forceescape groupby int items last length list
    lower max min reverse safe sort string title trim unique upper urlencode wordcount
"""
_EACH = "map reject rejectattr select selectattr"
"""These do some work of their own for each of their items."""


def size(text: str, method: str, args: tuple[Any, ...]) -> int:
    """At least as many characters as this method of `text` makes of these arguments."""
    if method == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
        return len(text) + text.count(args[0]) * len(args[1])
    if method == "join" and args and isinstance(args[0], list | tuple | dict):
        return sum(len(one) + len(text) for one in args[0] if isinstance(one, str))
    if method == "join" and args and isinstance(args[0], str):
        return len(args[0]) * (1 + len(text))
    raise TypeError(f"{method} takes texts, or a list of them")


@pass_context
def tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter would escape `<`, `>` and `&` for HTML."""
    _within_width(indent)
    if separators is not None and sum(map(len, separators)) > MAX_WIDTH:
        raise Overrun("asks for wide separators")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    budget_of(context).make(len(text))
    return text


@pass_context
def join(context: Context, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    budget = budget_of(context)
    budget.make(budget.weigh(items) + len(items) * len(d))
    return filters.sync_do_join(context.eval_ctx, items, d, attribute)


@pass_context
def replace(context: Context, s: str, old: str, new: str, count: int | None = None) -> str:
    budget_of(context).make(size(str(s), "replace", (str(old), str(new))))
    return filters.do_replace(context.eval_ctx, s, old, new, count)


@pass_context
def indent(context: Context, s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _within_width(width)
    budget_of(context).make(len(s) + MAX_WIDTH * (1 + s.count("\n")))
    return filters.do_indent(s, width, first, blank)


@pass_context
def formatted(context: Context, value: str, *args: Any) -> str:
    """`%` with fields whose width is not absurd."""
    if _WIDE.search(value):
        raise Overrun("asks for a wide field")
    budget = budget_of(context)
    given = args[0] if len(args) == 1 else args
    budget.make(len(value) + value.count("%") * (99 + budget.weigh(given)))
    return value % given


def rounded(value: float, precision: int = 0, method: Any = "common") -> float:
    _within_width(abs(precision))
    return filters.do_round(value, precision, method)


def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
    """The same filter, whose items are steps."""

    @pass_context
    def each(context: Context, *args: Any, **kwargs: Any) -> Iterator[Any]:
        budget = budget_of(context)
        for item in inner(context, *args, **kwargs):
            budget.step(1)
            yield item

    return each


def _within_width(width: int | str | None) -> None:
    columns = len(width) if isinstance(width, str) else width or 0
    if columns > MAX_WIDTH:
        raise Overrun(f"asks for over {MAX_WIDTH} columns")


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: filters.FILTERS[name] for name in _PLAIN.split()},
    **{name: counted(filters.FILTERS[name]) for name in _EACH.split()},
    "tojson": tojson,
    "join": join,
    "replace": replace,
    "indent": indent,
    "format": formatted,
    "round": rounded,
}

"""All faults, one line each; `headgate chaos-upstream --faults` prints them."""

from collections.abc import Mapping

from headgate.bench.chaos import acts, floods, refusals, shapes
from headgate.bench.chaos.fault import COMMON, NUMBERS, Act, Fault, Order, Shape
from headgate.bench.chaos.script import Script


def _act(
    name: str, what: str, run: Act, *options: str, main: str = "", preset: Mapping[str, str] | None = None
) -> Fault:
    return Fault(name, what, options, main, preset or {}, act=run)


def _shape(
    name: str, what: str, run: Shape, *options: str, main: str = "", preset: Mapping[str, str] | None = None
) -> Fault:
    return Fault(name, what, options, main, preset or {}, shape=run)


def _as_it_is(script: Script, order: Order) -> Script:
    return script


_STATUS = ("status", "retry_after", "body", "code")
TABLE = (
    # the connection
    _act("refuse", "resets, then takes no connection for s seconds (1)", acts.refuse, "s", main="s"),
    _act("tls", "no HTTP: garbage, alert, plain, silent; a TLS hello gets it too", acts.tls, "style", main="style"),
    _act("reset_reuse", "resets on every request of a connection but the first", acts.reset_reuse),
    _act("reset", "resets (RST) after n events", acts.reset, "after", main="after"),
    # time
    _act("no_head", "accepts and never answers; s: closes after so long", acts.no_head, "s", main="s"),
    _act("slow_head", "waits s seconds (5), then answers", acts.slow_head, "s", main="s"),
    _act("slow_first", "head at once, first event after s seconds (5)", acts.slow_first, "s", main="s"),
    _act("stall", "stops after n events, for s seconds or ever, then goes on", acts.stall, "after", "s", main="after"),
    _act("slow_drip", "the whole answer byte by byte, ms (5) between", acts.slow_drip, "ms", main="ms"),
    _act("slow", "so many events a second (rate=1)", acts.honest, main="rate", preset={"rate": "1"}),
    _act("only_comments", "comments for ever, or s seconds, and no event", acts.only_comments, "ms", "s"),
    # the end
    _act("cut", "closes (FIN) after n events; end=1: with the body's end", acts.cut, "after", "end", main="after"),
    _act("cut_event", "closes within the event after n", acts.cut_event, "after", main="after"),
    _act("cut_utf8", "closes within a character, after n events or more", acts.cut_utf8, "after", main="after"),
    _shape("no_done", "no terminal event; a body without its last byte", shapes.no_done),
    _shape("after_done", "an event after the terminal one; bytes behind a body", shapes.after_done),
    _shape("two_done", "the terminal event twice", shapes.two_done),
    # refusals
    _shape("status", "a refusal with a status (500)", refusals.status, *_STATUS, main="status"),
    *(
        _shape(str(code), f"a refusal with status {code}", refusals.status, *_STATUS, preset={"status": str(code)})
        for code in (401, 403, 404, 429, 500, 502, 503, 529)
    ),
    _shape("context_length", "400: too long, as=openai|anthropic|vllm|llamacpp", refusals.context_length, "as",
           main="as"),
    _shape("content_filter", "400: refused by policy, as=openai, azure, anthropic", refusals.content_filter, "as",
           main="as"),
    _shape("content_filter_finish", "200 that ends early: finish_reason content_filter", _as_it_is,
           preset={"finish": "content_filter", "tokens": "5"}),
    _shape("refusal", "200 in which the model declines", shapes.refusal_delta, preset={"finish": "stop"}),
    _shape("redirect", "307 to another place (to)", refusals.redirect, "to", "status", main="to"),
    _shape("error_event", "an error after n events; 200 with an error as body", shapes.error_event, "after", "kind",
           "code", "done", main="after"),
    # what is said
    _shape("bad_json", "event n, or the body, is no JSON", shapes.bad_json, "after", main="after"),
    _shape("wrong_type", "another content type (text/plain)", shapes.wrong_type, "type", main="type"),
    _shape("html", "200 with a page", shapes.html),
    _shape("null", "null where an object belongs", shapes.null, "after", main="after"),
    _shape("duplicate_events", "events from n on twice", shapes.duplicate_events, "after", main="after"),
    _shape("empty_choices", "events, or a body, without choices", shapes.empty_choices),
    _shape("usage_missing", "no usage, though asked for", shapes.usage_missing),
    _shape("usage_absurd", "usage negative, huge, float, text or null", shapes.usage_absurd, "kind", main="kind"),
    _shape("crlf", "lines end in CRLF, or in CR (line=cr): allowed, and rare", shapes.crlf, "line", main="line"),
    _shape("interleaved_tools", "pieces of several tool calls by turns", shapes.interleaved_tools,
           preset={"tools": "2"}),
    # size
    _act("gzip_bomb", "mb (1024) megabytes of zeros as gzip", floods.gzip_bomb, "mb", main="mb"),
    _act("huge_headers", "a header of a megabyte; kind=count: 20,000 headers", floods.huge_headers, "kind", "size",
         main="kind"),
    _act("endless", "the same event for ever", floods.endless, "size"),
    _act("huge_event", "one event of mb (16) megabytes", floods.huge_event, "mb", main="mb"),
)  # fmt: skip
FAULTS = {fault.name: fault for fault in TABLE}


def parse(text: str) -> Order:
    """Reads `cut,after=3`, `fault=cut,after=3`, `status=429,retry_after=short`, or options alone: `tokens=50`.

    Raises `ValueError` that names what is unknown.
    """
    items = [item.strip() for item in text.split(",") if item.strip()]
    if items and items[0].startswith("fault="):
        items[0] = items[0].removeprefix("fault=")
    options: dict[str, str] = {}
    fault = None
    if items:
        name, equals, value = items[0].partition("=")
        fault = FAULTS.get(name)
        if fault is not None:
            items.pop(0)
            options |= fault.preset
            if value:
                if not fault.main:
                    raise ValueError(f"fault {name} takes no value of its own: write {name}")
                options[fault.main] = value
        elif not equals:
            raise ValueError(f"no fault is called {name!r}: headgate chaos-upstream --faults lists them")
    known = {*COMMON, *(fault.options if fault else ())}
    for item in items:
        name, _, value = item.partition("=")
        if name not in known:
            raise ValueError(f"option {name!r} is not one of {', '.join(sorted(known))}")
        options[name] = value
    for name, value in options.items():
        _check(name, value)
    return Order(fault, options, text)


def _check(name: str, value: str) -> None:
    kind = NUMBERS.get(name)
    if kind is None:
        return
    try:
        good = 0 <= kind(value) < 1e9
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"option {name}: {value!r} is no {'whole ' if kind is int else ''}number of 0 or more")


def listed() -> str:
    """The table as text."""
    lines = []
    for fault in TABLE:
        options = ", ".join(f"{name} (main)" if name == fault.main else name for name in fault.options)
        lines.append(f"{fault.name:22} {fault.what}" + (f"  [{options}]" if options else ""))
    lines.append(f"with every fault, or alone: {', '.join(COMMON)}")
    return "\n".join(lines)

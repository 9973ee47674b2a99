"""`headgate explain`: one call's story, out of the ledger and, if given, the log. Works beside a running server."""

import argparse
import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from headgate.app.accounting import open_accounts
from headgate.app.config import find_file, load, read_environment
from headgate.cli.common import Commands, add, place_options
from headgate.core.errors import BadCall, NotFound
from headgate.ledger.accounts.story import Step, Story
from headgate.ledger.billing.invoices import dollars
from headgate.ledger.billing.text import printable

WIDTH = 48
"""Characters of the timeline."""
LINE_MAX = 1 << 20
LINES_MAX = 1_000
"""Of the log about one call."""
_SHOWN = frozenset({"event", "level", "at", "request_id"})


def add_parser(commands: Commands) -> None:
    command = add(
        commands,
        "explain",
        "tell what became of one call, by the id that its answer's header x-request-id says",
        "headgate explain req_06fd1se9a1w3x6hvkrb2p8t5cn --log headgate.log",
    )
    command.add_argument("request_id", metavar="REQUEST_ID")
    command.add_argument("--log", metavar="FILE", help="the server's log, for what is not in the ledger: refusals")
    command.add_argument("--json", action="store_true", help="print JSON")
    place_options(command)
    command.set_defaults(run=lambda options: asyncio.run(_explain(options)))


async def _explain(options: argparse.Namespace) -> int:
    lines = _log_lines(options.log, options.request_id) if options.log else []
    story: Story | None = None
    async with open_accounts(load(find_file(options.config)), read_environment(options.home)) as accounts:
        try:
            story = await accounts.story_of(options.request_id)
        except NotFound:
            if not lines:
                raise
    if options.json:
        found = msgspec.to_builtins(story) if story else {"object": "headgate.call", "id": options.request_id}
        print(json.dumps({**found, "log": lines} if options.log else found))
        return 0
    told = [*(_told(story) if story else [f"{options.request_id} made no attempt at a backend"]), *_logged(lines)]
    print("\n".join(printable(line) for line in told))
    return 0


def _told(story: Story) -> Iterator[str]:
    yield f"{story.id} ended {_end(story)} after {_ms(story.duration_ms)}"
    yield ""
    yield f"  when  {datetime.fromtimestamp(story.received_at, UTC).isoformat(' ', 'milliseconds')}"
    yield f"  what  {story.operation}{', stream' if story.stream else ''}, model {story.model}"
    who = [f"project {story.tenant}", f"key {story.key_id}"]
    who += [f"{name} {value}" for name, value in (("user", story.user), ("session", story.session)) if value]
    yield f"  who   {', '.join(who)}"
    yield ""
    yield from _timeline(story)
    for step in story.attempts:
        yield ""
        yield from _step(step)
    yield ""
    yield from _sums(story)


def _timeline(story: Story) -> Iterator[str]:
    end = _ms(story.duration_ms)
    yield f"     0{end:>{WIDTH}}"
    scale = WIDTH / max(story.duration_ms, 0.001)
    for step in story.attempts:
        yield f"  {step.attempt:>2} |{_bar(step, scale)}| {_place(step)}"
    yield "     . waited   - until its first piece   = its answer"


def _bar(step: Step, scale: float) -> str:
    """Every part that was is seen, however short."""
    start = min(max(int(step.at_ms * scale), 1 if step.waited_ms else 0), WIDTH - 1)
    end = min(max(int((step.at_ms + step.duration_ms) * scale), start + 1), WIDTH)
    begun = end if step.begun_ms is None else min(int((step.at_ms + step.begun_ms) * scale), end)
    if step.begun_ms is not None and step.outcome == "ok":
        begun = min(max(begun, start), end - 1)
    waited = min(max(round(step.waited_ms * scale), 1), start) if step.waited_ms else 0
    bar = " " * (start - waited) + "." * waited + "-" * (begun - start) + "=" * (end - begun)
    return bar.ljust(WIDTH)


def _step(step: Step) -> Iterator[str]:
    yield f"  {step.attempt}. {step.reason or 'again'}: {_place(step)}, model {step.upstream_model}"
    if step.passed_over:
        yield f"     passed over: {step.passed_over}"
    waited = [f"waited {_ms(step.waited_ms)}"] if step.waited_ms else []
    begun = "no piece came" if step.begun_ms is None else f"first piece after {_ms(step.begun_ms)}"
    times = [*waited, f"sent at {_ms(step.at_ms)}", begun, f"lasted {_ms(step.duration_ms)}"]
    yield f"     {', '.join(times)}"
    yield f"     {_end(step)}; {_tokens(step)}; {_cost(step.cost_nanos)}"


def _sums(story: Story) -> Iterator[str]:
    for each in story.corrections:
        more = f"{each.input_tokens:+,} in, {each.output_tokens:+,} out"
        yield f"  corrected by {each.id}: {more}, {_cost(each.cost_nanos)}"
    count = len(story.attempts)
    yield f"  {count} attempt{'s' * (count != 1)}: {_figures(story)}; {_cost(story.cost_nanos)}"
    first = "no piece came" if story.ttft_ms is None else f"first piece at {_ms(story.ttft_ms)}"
    known = (("waited", story.queue_ms), ("our own time before the first attempt", story.overhead_ms))
    yield f"  {', '.join([first, *(f'{name} {_ms(value)}' for name, value in known if value is not None)])}"


def _place(step: Step) -> str:
    return step.backend if step.replica in (None, step.backend) else f"{step.backend} ({step.replica})"


def _end(end: Story | Step) -> str:
    return f"{end.outcome} ({end.status}{' ' + end.code if end.code else ''})"


def _figures(sums: Story | Step) -> str:
    return f"{sums.input_tokens:,} tokens in, {sums.output_tokens:,} out"


def _tokens(step: Step) -> str:
    cached = f" ({step.cached_tokens:,} cached)" if step.cached_tokens else ""
    said = f"{step.input_tokens:,} tokens in{cached}, {step.output_tokens:,} out"
    return said + (", estimated" if step.estimated else "")


def _cost(nanos: int | None) -> str:
    return "no price" if nanos is None else f"${dollars(nanos)}"


def _ms(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _log_lines(path: str, request_id: str) -> list[dict[str, Any]]:
    """The log's lines about the call. Lines that are no JSON are passed over. Raises `BadCall`."""
    found: list[dict[str, Any]] = []
    wanted = json.dumps(request_id).encode()
    try:
        with Path(path).open("rb") as file:
            while (line := file.readline(LINE_MAX)) and len(found) < LINES_MAX:
                fields = _fields(line) if wanted in line else None
                if fields is not None and fields.get("request_id") == request_id:
                    found.append(fields)
    except OSError as error:
        raise BadCall(f"--log {path}: cannot be read: {error.strerror}.") from error
    return found


def _fields(line: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None


def _logged(lines: list[dict[str, Any]]) -> Iterator[str]:
    if lines:
        yield ""
        yield "  the log says"
    for line in lines:
        fields = [f"{name}={_value(value)}" for name, value in line.items() if name not in _SHOWN]
        yield f"    {_clock(line.get('at'))}  {line.get('event')}  {' '.join(fields)}"


def _clock(at: object) -> str:
    if not isinstance(at, int | float) or not 0 <= at < 1e11:
        return "-"
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")[11:23]


def _value(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value)

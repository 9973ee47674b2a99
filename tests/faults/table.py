"""Calls an upstream with every fault and writes down what became of it.

python -m tests.faults.table          # writes docs/reference/faults.md anew
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.caller import Told, speak, told
from tests.faults.checks import Measured
from tests.faults.house import CASES, SITUATIONS, Case, House, house
from tests.faults.rows import FORMS, GROUPS, Form, Row
from tests.faults.stories import story_of
from tests.upstream.chaos import ROOT, Chaos

PAGE = ROOT / "docs" / "reference" / "faults.md"
AT_ONCE, FLOODS_AT_ONCE, SILENT_AT_ONCE = 24, 2, 48
"""Calls at once: of most; of those whose upstream floods them; of those that wait for one that is silent."""
WAITS = {
    "upstream_first_token_timeout": "`first_token_s`",
    "upstream_stalled": "`between_tokens_s`",
    "upstream_timeout": "`total_s`",
}
RESTS = {"upstream_rate_limited", "upstream_overloaded"}
INTRO = """# What each fault comes to

Every fault of the [hostile upstream](../howto/chaos.md), for a stream and for a whole answer: alone, with a second
replica that is well, and with a fallback to another model that can go on with what was sent (`prefill: vllm`). The
tables are measured: `python -m tests.faults.table` writes this page, and `tests/faults` fails where a server does
anything else.

For all rows the same test says: no truncated answer looks complete and no complete one broken; the text is the
undisturbed answer to the byte, or its beginning with an error behind it; errors have OpenAI's shape; a model is asked
three times at most; nothing lasts past the call's deadline; the ledger has one entry for each attempt, one of them
`ok` where the caller has the answer and none where not; each costs what it used, and the caller's budget has paid
their sum.

**Seen** is what the caller gets. `answer` is the whole, right answer; `begun, then` is an error frame behind the
first words; a number is the status of a refusal. **Ledger** is what the entries say: the code of each attempt that
failed, or `ok`; *est.* where its tokens are our count, since the upstream gave none; `continue`, `replay`, `fallback`
where that was the reason. **Takes** is what the call waits for where there is no help.
"""


def measure(standing: House, cases: Sequence[Case]) -> list[Measured]:
    """All of them, many at once."""

    async def one(case: Case, gate: asyncio.Semaphore) -> tuple[Case, Told, float]:
        async with gate:
            body = {"model": case.name, "messages": case.messages, "stream": case.stream}
            if case.stream:
                body["stream_options"] = {"include_usage": True}
            start = time.monotonic()
            headers = {"x-headgate-timeout-s": f"{case.row.deadline_s:.0f}"}
            heard = await speak(standing.live.port, standing.key, body, headers)
            seconds = time.monotonic() - start
            return case, told(heard), seconds

    async def main() -> list[tuple[Case, Told, float]]:
        floods, silent, gate = map(asyncio.Semaphore, (FLOODS_AT_ONCE, SILENT_AT_ONCE, AT_ONCE))

        def gate_of(case: Case) -> asyncio.Semaphore:
            if case.row.floods:
                return floods
            return silent if WAITS.keys() & {case.row.stream, case.row.whole} else gate

        found = list(await asyncio.gather(*(one(case, gate_of(case)) for case in cases)))
        for upstream in standing.own:
            await back(upstream)
        return found

    for upstream in standing.own:
        upstream.refuse(0)  # the connections that probes have left there are closed
    found = asyncio.run(main())
    standing.live.settle()
    reached = standing.reached()
    return [
        Measured(case, said, story_of(standing.live, said.call_id), seconds, reached.get(case.marker, 0))
        for case, said, seconds in found
    ]


async def back(upstream: Chaos) -> None:
    """Waits until a server that refuses connections takes them again."""
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise AssertionError("it takes no connection any more")


def seen(one: Measured) -> str:
    found, count = one.told, len(one.entries)
    if found.error is None:
        text = "answer"
    elif found.status == 200:
        text = f"begun, then `{found.code}`"
    else:
        text = f"{found.status} `{found.code}`"
    return text + (f", {count} attempts" if count > 1 else "")


def booked(one: Measured) -> str:
    words = []
    for entry in one.entries:
        reason = entry["reason"] if entry["reason"] in {"continue", "replay", "fallback"} else ""
        end = "ok" if entry["outcome"] == "ok" else f"`{entry['code'] or entry['status']}`"
        words.append(" ".join(filter(None, [reason, end, "*est.*" if entry["estimated"] else ""])))
    runs = [(word, len(list(group))) for word, group in itertools.groupby(words)]
    return ", ".join(word if count == 1 else f"{count} × {word}" for word, count in runs)


def takes(one: Measured) -> str:
    """What the call waited for, by its entries."""
    codes = [entry["code"] for entry in one.entries]
    words = [WAITS[code] for code in codes if code in WAITS]
    for before, entry in itertools.pairwise(one.entries):
        if (entry["backend"], entry["replica"]) == (before["backend"], before["replica"]):
            words.append("rest" if before["code"] in RESTS else "backoff")
    runs = [(word, words.count(word)) for word in dict.fromkeys(words)]
    return " + ".join(word if count == 1 else f"{count} × {word}" for word, count in runs) or "-"


def rendered(found: Sequence[Measured]) -> str:
    by_name = {one.case.name: one for one in found}
    parts = [INTRO]
    for title, rows in GROUPS:
        parts.append(f"## {title}\n")
        parts.append("\n".join([*_head("Seen"), *_lines(rows, by_name, with_time=False), ""]))
        parts.append("\n".join([*_head("Ledger", "takes"), *_lines(rows, by_name, with_time=True), ""]))
    return "\n".join(parts)


def _head(title: str, *more: str) -> list[str]:
    names = [title, "", "alone", "another replica", "another model", *more]
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _lines(rows: tuple[Row, ...], by_name: dict[str, Measured], *, with_time: bool) -> list[str]:
    lines = []
    for row in rows:
        name = f"`{row.orders}`: {row.what}" if row.orders else row.what
        cells = {form: _cells(row, form, by_name, with_time=with_time) for form in FORMS}
        if cells["stream"] == cells["whole"]:
            lines.append(f"| {name} | both | {cells['stream']} |")
        else:
            lines.extend(f"| {name} | {form} | {cells[form]} |" for form in FORMS)
    return lines


def _cells(row: Row, form: Form, by_name: dict[str, Measured], *, with_time: bool) -> str:
    ones = [by_name[Case(row, form, situation).name] for situation in SITUATIONS]
    cells = [booked(one) if with_time else seen(one) for one in ones]
    return " | ".join([*cells, *([takes(ones[0])] if with_time else [])])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, house(Path(folder)) as standing:
        PAGE.write_text(rendered(measure(standing, CASES)))


if __name__ == "__main__":
    main()

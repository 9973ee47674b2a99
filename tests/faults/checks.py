"""What holds for every call, whatever the upstream does: one function, asked for each row of the table."""

from dataclasses import dataclass
from typing import Any

from tests.faults.caller import Told
from tests.faults.house import INPUT_NANOS, OUTPUT_NANOS, Case
from tests.faults.rows import ANSWER
from tests.upstream.chaos import honest, said

ATTEMPTS_MAX = 3
"""At one model."""


@dataclass(frozen=True)
class Measured:
    """A call, as its caller, the ledger and the upstreams saw it."""

    case: Case
    told: Told
    story: dict[str, Any]
    """`GET /v1/organization/calls/{id}`."""
    seconds: float
    reached: int
    """Requests that came to the upstreams."""

    @property
    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.story["attempts"]
        return found


def check(one: Measured) -> None:
    """Raises `AssertionError` where the caller was told what is not so, or the books do not say what was."""
    assert one.seconds < one.case.row.deadline_s, "past the call's deadline"
    expected = one.case.row.expected(one.case.form)
    if one.case.situation != "alone" and not one.case.row.final and not _too_long_said(one.case):
        expected = ANSWER
    assert (one.told.code or ANSWER) == expected
    _ends_once(one)
    _says_what_was_said(one)
    _attempts(one)
    _books(one)


def _too_long_said(case: Case) -> bool:
    """What an endless stream has said is no beginning of the other replica's answer; another model goes on with it."""
    return case.row.kind == "endless" and case.stream and case.situation == "replica"


def _ends_once(one: Measured) -> None:
    """An answer that is complete has all marks of it, one that is not has none."""
    found = one.told
    assert not found.left, "the caller had to leave"
    assert found.done == (found.error is None)
    assert found.behind == 0, "frames behind the end"
    if one.case.row.order != "empty_choices":  # whose empty frames have a name of their own
        assert len(found.names) <= 1, "frames of several answers"
    if found.error is None:
        assert found.status == 200
        if one.case.row.kind != "twice":
            assert [choice.finishes for choice in found.choices.values()] == [[_finish(one)]]
            assert one.case.row.kind == "endless" or [choice.roles for choice in found.choices.values()] == [1]
        return
    assert not any(choice.finishes for choice in found.choices.values()), "an error behind a finish"
    assert found.error.keys() == {"message", "type", "param", "code"}
    assert isinstance(found.error["type"], str)
    assert found.error["message"]
    assert "127.0.0.1" not in found.error["message"], "an address of ours"
    assert found.status == 200 or found.status == one.story["status"]


def _finish(one: Measured) -> str:
    row = one.case.row
    if row.kind == "endless":
        return one.told.choices[0].finishes[0]
    return row.finish


def _says_what_was_said(one: Measured) -> None:
    """The answer, or with an error the beginning of it."""
    case, found = one.case, one.told
    if case.row.kind in {"twice", "endless"}:
        return  # it cannot be told from words said again
    asked: dict[str, Any] = {} if case.row.tokens is None else {"tokens": case.row.tokens}
    if case.row.kind == "tools":
        calls = honest(case.messages, tools=2).choices[0].calls
        assert found.choices[0].calls == {n: (call.id, call.name, call.arguments) for n, call in enumerate(calls)}
        return
    text = found.choices[0].refusal if case.row.kind == "refusal" and found.choices else found.text
    right = said(case.messages, **asked)
    if found.error is not None:
        assert right.startswith(text)
    elif one.entries[-1]["reason"] == "continue":
        written = one.entries[0]["output_tokens"]
        assert text.startswith(said(case.messages, tokens=written))
    elif one.entries[-1]["backend"] == "spare":
        assert text == said(case.messages, salt="other")
        assert found.headers["x-headgate-level"] == ("fallback" if one.entries[-1]["reason"] == "fallback" else "full")
    else:
        assert text == right


def _attempts(one: Measured) -> None:
    entries, found = one.entries, one.told
    assert [entry["attempt"] for entry in entries] == list(range(1, len(entries) + 1))
    assert len({entry["id"] for entry in entries}) == len(entries)
    assert sum(entry["backend"] == one.case.name for entry in entries) <= ATTEMPTS_MAX
    assert sum(entry["backend"] == "spare" for entry in entries) <= 1
    again = one.case.row.order == "reset_reuse"  # a connection that had gone stale: the request is sent anew
    assert one.reached <= len(entries) + again
    rescued = [entry for entry in entries if entry["reason"] in {"continue", "replay"}]
    assert found.attempts == len(entries) - len(rescued), "the header at the answer's beginning"
    if found.attempts > 1:
        assert found.headers["x-headgate-tried"].count(",") == found.attempts - 1


def _books(one: Measured) -> None:
    """One entry an attempt, one of them `ok` where the caller has the answer, each paid by what it used."""
    case, entries = one.case, one.entries
    good = [entry for entry in entries if entry["outcome"] == "ok"]
    assert len(good) == (one.told.error is None), "an answer is paid once, what is none is no answer"
    for entry in entries:
        cost = entry["input_tokens"] * INPUT_NANOS + entry["output_tokens"] * OUTPUT_NANOS
        assert (entry["cost_nanos"] or 0) == cost
        assert entry["outcome"] == "ok" or entry["status"] >= 400
        assert entry["input_tokens"] >= 0
        assert entry["output_tokens"] >= 0
    assert (one.story["cost_nanos"] or 0) == sum(entry["cost_nanos"] or 0 for entry in entries)
    told_usage = "usage" not in case.row.order
    for entry in good:
        assert entry["estimated"] != told_usage
        if told_usage and entry["reason"] != "continue" and case.row.kind not in {"tools", "endless", "twice"}:
            salt = "other" if entry["backend"] == "spare" else ""
            right = honest(case.messages, salt=salt, **({} if case.row.tokens is None else {"tokens": case.row.tokens}))
            assert (entry["input_tokens"], entry["output_tokens"]) == (right.prompt_tokens, right.completion_tokens)
            if case.stream:
                counted = [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in one.told.usage]
                assert counted == [(right.prompt_tokens, right.completion_tokens)]

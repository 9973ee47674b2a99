"""A server whose first upstream breaks streams as ordered, and what a caller must have got all the same."""

import asyncio
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headgate.bench.chaos.answer import Answer, answer
from headgate.bench.chaos.asked import read
from tests.faults.caller import Told, speak, told
from tests.faults.house import settings
from tests.live import Live, serving
from tests.upstream.chaos import Chaos, chaos

WORDS = 20
EVENTS = WORDS + 4
"""The role, the words, the finish, the usage, `[DONE]`."""
FAULTS = ("cut", "cut_event", "cut_utf8", "reset", "stall", "error_event", "bad_json")
Way = Literal["replay", "continue", "refused", "fallback"]
"""Another replica that answers anew; one that goes on; one that refuses to; a fallback that refuses to."""
WAYS: dict[Way, str] = {
    "replay": "prefill=ignore",
    "continue": "prefill=continue",
    "refused": "prefill=refuse",
    "fallback": "prefill=refuse,framing=chunked",
}
"""What the model's name ends with: routes go by it, and to the upstreams it means nothing here."""
ANEW = "prefill=ignore,framing=chunked"
"""So end completions: this upstream does not go on with a prompt, so that only `replay` is right for it."""
REASONS: dict[Way, list[str]] = {
    "replay": ["first", "replay"],
    "continue": ["first", "continue"],
    "refused": ["first", "continue", "replay"],
    "fallback": ["first", "continue", "replay"],
}
AT_ONCE = 16
MANY = 1_000_000
CALM = {
    "probes": {"interval_s": 3600.0},
    "breaker": {"failures": 10_000, "min_calls": 10_000},
    "outliers": {"max_share": 0.0},
}
"""The first upstream stays in use, however often it fails."""


@dataclass(frozen=True)
class Stage:
    """The server, and the key of a caller."""

    live: Live
    key: str
    upstreams: list[Chaos]

    async def ask(self, broken: "Broken", headers: dict[str, str] | None = None) -> Told:
        heard = await speak(self.live.port, self.key, broken.body, headers, path=broken.path)
        return told(heard)

    def asked(self, calls: Sequence["Broken"]) -> list[Told]:
        """All of them, many at once."""

        async def main() -> list[Told]:
            gate = asyncio.Semaphore(AT_ONCE)

            async def one(broken: Broken) -> Told:
                async with gate:
                    return await self.ask(broken)

            return await asyncio.gather(*map(one, calls))

        return asyncio.run(main())


@dataclass(frozen=True)
class Broken:
    """A call whose first attempt breaks so, after so many events."""

    fault: str
    after: int
    way: Way = "replay"
    n: int = 1
    tools: int = 0
    words: int = WORDS
    completion: bool = False
    usage: bool = True

    @property
    def path(self) -> str:
        return "/v1/completions" if self.completion else "/v1/chat/completions"

    @property
    def model(self) -> str:
        tools = f",tools={self.tools}" if self.tools else ""
        ending = ANEW if self.completion else WAYS[self.way]
        return f"chaos:{self.fault},after={self.after},tokens={self.words}{tools},{ending}"

    @property
    def events(self) -> int:
        """Of the stream, its usage and `[DONE]` the last of them."""
        right = self.undisturbed
        said = sum(len(choice.words) + sum(1 + len(call.pieces) for call in choice.calls) for choice in right.choices)
        return said + (self.n if self.completion else 2 * self.n) + 1 + self.usage

    @property
    def body(self) -> dict[str, Any]:
        text = f"{self.fault} at {self.after}, then {self.way}"
        said: dict[str, Any] = (
            {"prompt": text} if self.completion else {"messages": [{"role": "user", "content": text}]}
        )
        more: dict[str, Any] = {"stream_options": {"include_usage": True}} if self.usage else {}
        return {"model": self.model, "stream": True, "n": self.n, **said, **more}

    @property
    def undisturbed(self) -> Answer:
        asked = read(self.body, "text" if self.completion else "chat", "ignore")
        return answer(asked, {"tokens": str(self.words), "tools": str(self.tools)})

    def check(self, found: Told) -> None:
        """It is what no fault would have given: every word once, each mark once, in one answer's name."""
        right = self.undisturbed
        assert found.status == 200, found.error
        assert found.error is None, found.error
        assert found.done
        assert found.behind == 0
        assert len(found.names) == 1
        assert sorted(found.choices) == list(range(self.n))
        for index, choice in enumerate(right.choices):
            got = found.choices[index]
            assert got.text == choice.text
            assert got.calls == {n: (call.id, call.name, call.arguments) for n, call in enumerate(choice.calls)}
            assert got.finishes == [choice.finish]
            assert got.roles == (not self.completion)
        if not self.usage or self.after == self.events - 2:  # where nothing but the usage is missing nobody is asked
            assert found.usage == []
            return
        (used,) = found.usage
        assert used["completion_tokens"] == right.completion_tokens
        # A beginning that is read as prompt is counted by its spaces there, and some words have one inside.
        assert 0 <= used["prompt_tokens"] - right.prompt_tokens <= (WORDS if self.way == "continue" else 0)


def _pool(name: str, first: Chaos, second: Chaos, prefill: str) -> dict[str, Any]:
    """All but surely the first replica is tried first."""
    replicas = [{"base_url": first.base_url, "weight": float(MANY * MANY)}, {"base_url": second.base_url}]
    return {"name": name, "prefill": prefill, "replicas": replicas}


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """The replicas besides the first take no orders: they answer."""
    with contextlib.ExitStack() as stack:
        words = ("--tokens", str(WORDS))
        bad, good, stubborn, tools = (
            stack.enter_context(chaos(*arguments))
            for arguments in ((), ("--deaf", *words), ("--deaf", "--prefill", "refuse", *words), ("--deaf", *words))
        )
        tools.set("tools=2")
        backends = [
            _pool("tools", bad, tools, "none"),
            _pool("replay", bad, good, "none"),
            _pool("continue", bad, good, "vllm"),
            _pool("refused", bad, stubborn, "assistant"),
            {"name": "bad", "base_url": bad.base_url},
            {"name": "stubborn", "base_url": stubborn.base_url, "prefill": "assistant"},
        ]
        rules: dict[str, Any] = {"balance": "weighted", "timeouts": {"first_token_s": 3.0, "between_tokens_s": 1.0}}
        routes: list[dict[str, Any]] = [
            {"model": "chaos:*tools=2*", "targets": [{"backend": "tools"}]},
            {"model": f"chaos:*{ANEW}", "targets": [{"backend": "replay"}],
             "rules": {**rules, "recovery": ["replay"]}},
            *({"model": f"chaos:*{WAYS[way]}", "targets": [{"backend": way}]} for way in WAYS if way != "fallback"),
            {"model": f"chaos:*{WAYS['fallback']}", "targets": [{"backend": "bad"}],
             "fallbacks": [{"backend": "stubborn", "model": "stubborn"}]},
        ]  # fmt: skip
        more = {"retries": {"reserve": 100_000.0}, "health": CALM, "rules": rules}
        live = stack.enter_context(serving(folder / "home", settings(folder, backends, routes, **more)))
        key = json.loads(live.post("/admin/keys", {"name": "recovery", "tenant": "recovery"})[1])["key"]
        yield Stage(live, key, [bad, good, stubborn, tools])

"""A race whose attempts answer in the same moment: one is the answer, the other one lost, and both are metered."""

import asyncio
from pathlib import Path

from headgate.core.call import Call
from headgate.core.ports import Answer
from headgate.core.rules import Hedge, Rules
from headgate.core.target import Target
from headgate.core.usage import Usage
from headgate.pipeline.hedging import ENOUGH
from tests.pipeline.spine import Bodied, Spine, until


class Together(Bodied):
    """Answers when it is told to."""

    def __init__(self, name: str, told: asyncio.Event) -> None:
        super().__init__(name, b'{"by":"%b"}' % name.encode(), Usage(input=3, output=3))
        self.told = told

    async def open(self, call: Call, target: Target) -> Answer:
        answer = await super().open(call, target)
        await self.told.wait()
        return answer


def test_of_two_answers_in_the_same_moment_one_has_lost(tmp_path: Path) -> None:
    async def main() -> None:
        told = asyncio.Event()
        backends = [Together("a", told), Together("b", told)]
        rule = Rules(balance="round_robin", hedge=Hedge(min_s=0.01, max_extra=1.0))
        spine = Spine(tmp_path, backends).rule(rule, shared=True)
        hedges = spine.path.upstreams.hedges("m")
        for _ in range(ENOUGH):
            hedges.began(0.01)
            hedges.came(Hedge(max_extra=1.0))
        call = asyncio.create_task(spine.handle(stream=False))
        await until(lambda: all(backend.opened for backend in backends))
        told.set()
        reply = await call
        await reply.aclose()
        assert [receipt.outcome for receipt in spine.receipts()] == ["ok", "ok"], "both were made, and cost"
        line = spine.done()[0]
        assert reply.body == b'{"by":"%b"}' % line["backend"].encode()
        headers = dict(reply.headers)
        assert headers[b"x-headgate-backend"] == line["backend"].encode()
        spine.at_rest()

    asyncio.run(main())

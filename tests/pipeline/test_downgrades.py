"""A cheaper model instead: limits count the call once, the ledger pays from the budgets that held, nobody is misled."""

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from headgate.core.call import Call
from headgate.core.errors import NotFound, OverBudget
from headgate.core.policy import NANOS, Budget, Governed, Limit, Policy
from headgate.core.principal import Principal
from headgate.core.target import Route, Routed, RouteTable, Target
from headgate.core.usage import Usage
from headgate.ledger.prices import PriceBook, PriceTable
from tests.pipeline.door import MakeDoor
from tests.pipeline.spine import PRICED, Bodied, Spine, make_call

SOFT = Budget(1.0, model="m", soft=0.5, at_soft="downgrade", downgrade_to="free")


def policies(*limits: Limit, budget: Budget = SOFT) -> tuple[Governed, ...]:
    return (Governed("project", "acme", Policy(limits=limits, budgets=(budget,))),)


def test_a_call_that_is_downgraded_counts_as_one_request(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=policies(Limit("requests", 2)))
        house.spent = (NANOS // 2, 0)
        for left in (b"1", b"0"):
            lease = await house.enter(max_completion_tokens=10)
            assert lease.call.model == "free"
            headers = dict(lease.headers)
            assert len(headers) == len(lease.headers)
            assert headers[b"x-ratelimit-remaining-requests"] == left
            house.leave(lease, used=7)
        assert await house.remaining("tokens") == pytest.approx(20_000_000 - 14, abs=1)

    asyncio.run(main())


def test_a_cheaper_model_that_nobody_serves_is_not_asked(door: MakeDoor) -> None:
    def find(call: Call) -> Routed:
        if call.model == "free":
            raise NotFound("there is none")
        return Routed((Target("a", call.model),))

    async def main() -> None:
        house = door(policies=policies())
        house.spent = (NANOS // 2, 0)
        lease = await house.admission.admit(house.principal, make_call(house.clock, max_completion_tokens=10), find)
        assert lease.call.model == "m"
        house.leave(lease)
        hard = Budget(0.0, at_limit="downgrade", downgrade_to="free")
        broke = door(policies=policies(budget=hard))
        with pytest.raises(OverBudget, match="is spent"):
            await broke.admission.admit(broke.principal, make_call(broke.clock), find)

    asyncio.run(main())


def test_the_ledger_names_the_model_whose_budgets_paid(tmp_path: Path) -> None:
    async def main() -> None:
        budget = Budget(0.0, model="dear", at_limit="downgrade", downgrade_to="m")
        own = Budget(1.0, per="total", model="m")
        who = Principal(
            "key_1",
            "acme",
            frozenset({"inference"}),
            policies=(Governed("project", "acme", Policy(budgets=(budget, own))),),
        )
        house = Spine(tmp_path, [Bodied("a", b"{}", Usage(input=10, output=5))], principal=who)
        house.meter.prices = PriceTable(PriceBook("v", (PRICED, structs.replace(PRICED, model="dear"))))
        target = (Target("a", "*"),)
        house.gateway.routes = RouteTable(1, {name: Route(name, target) for name in ("dear", "m")})
        await house.whole(model="dear", stream=False)
        (receipt,) = house.receipts()
        assert (receipt.model, receipt.upstream_model) == ("m", "m")
        (paid,) = await house.limiter.balances(["project:acme:usd/total/all/m::all"])
        assert paid is not None
        assert (paid.spent, paid.held) == (receipt.cost_nanos, 0)

    asyncio.run(main())


def test_a_budget_does_not_change_a_tenants_share_where_calls_wait(door: MakeDoor) -> None:
    async def main() -> None:
        free = await door().enter()
        assert (await door(policies=policies()).enter()).ticket.cost_tokens == free.ticket.cost_tokens
        tokens = Governed("project", "acme", Policy(budgets=(Budget(1_000_000, unit="tokens"),)))
        counted = await door(policies=(tokens,)).enter()
        assert counted.ticket.cost_tokens == free.ticket.cost_tokens
        assert counted.booked.cost.tokens > counted.ticket.cost_tokens

    asyncio.run(main())

"""Budgets where a call is tried more than once, at targets of different prices."""

import asyncio
from datetime import date

import pytest

from headgate.core.errors import OverBudget
from headgate.core.policy import Budget
from headgate.core.target import Routed, Target
from headgate.ledger.prices import Price, PriceBook, PriceTable
from headgate.pipeline.admission import Lease
from tests.pipeline.door import Door, MakeDoor
from tests.pipeline.spine import PRICED, make_call
from tests.pipeline.test_budgets import balance, governed

DEAR = Price(model="dear", effective=date(2020, 1, 1), input=100, output=200)
CHEAP_ONE, DEAR_ONE = Target("a", "m"), Target("b", "dear")


async def lease_for(house: Door, routed: Routed) -> Lease:
    house.path.gateway.meter.prices = PriceTable(PriceBook("v2", (PRICED, DEAR)))
    call = make_call(house.clock, max_completion_tokens=100)
    return await house.admission.admit(house.principal, call, lambda _: routed)


def test_the_cap_of_one_request_holds_for_a_dearer_target_too(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.001, per="request")))
        lease = await lease_for(house, Routed((CHEAP_ONE, DEAR_ONE)))
        (await house.admission.again(lease, CHEAP_ONE, "claim/a/2")).settle()
        with pytest.raises(OverBudget, match="for one request"):
            await house.admission.again(lease, DEAR_ONE, "claim/b/2")
        house.admission.leave(lease, 0)

    asyncio.run(main())


def test_who_leads_a_run_that_another_began_holds_what_the_dearest_target_may_cost(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(1.0, per="total")))
        lease = await lease_for(house, Routed((CHEAP_ONE, DEAR_ONE), 2))
        first = lease.first_hold()
        assert first is not None
        _, at_the_door = await balance(house, "project:acme:usd/total/all/*::all")
        first.settle()
        hold = await house.admission.lead(lease, "claim/led")
        assert await balance(house, "project:acme:usd/total/all/*::all") == (0, at_the_door)
        hold.settle()
        house.admission.leave(lease, 0)
        assert await balance(house, "project:acme:usd/total/all/*::all") == (0, 0)

    asyncio.run(main())

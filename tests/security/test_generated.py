"""Thousands of generated requests: never a fault of ours, always the error shape, the server alive after."""

import json
import random

import pytest

from tests.api.house import Answer, Wire
from tests.live import Live
from tests.security.generated import request


def proper(answer: Answer, method: str) -> bool:
    if answer.status < 400 or method == "HEAD":
        return True
    return set(json.loads(answer.body)["error"]) == {"message", "type", "param", "code"}


def storm(live: Live, count: int, seed: int) -> dict[int, int]:
    """How many answers had which status. The request that failed can be made again from its own seed."""
    seen: dict[int, int] = {}
    wire = Wire(live.port)
    try:
        for number in range(count):
            method, data = request(random.Random(f"{seed}/{number}"), live.key)
            wire.send(data)
            answer = wire.answer(method)
            assert answer.status < 500, (number, data, answer.body)
            assert proper(answer, method), (number, data, answer.body)
            seen[answer.status] = seen.get(answer.status, 0) + 1
            if answer.headers.get("connection") == "close":
                wire.socket.close()
                wire = Wire(live.port)
    finally:
        wire.socket.close()
    live.settle()
    return dict(sorted(seen.items()))


def test_five_hundred_generated_requests_find_no_fault_of_ours(gate: Live) -> None:
    print(storm(gate, 500, seed=1))


@pytest.mark.prove
def test_ten_thousand_generated_requests_find_no_fault_of_ours(gate: Live) -> None:
    print(storm(gate, 10_000, seed=2))

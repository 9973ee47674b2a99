"""A recording holds a bounded part of an answer, whoever follows it and however slowly."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.api.recording import AHEAD, Memory, Recording
from headgate.core.errors import Conflict, Overloaded, Truncated

LIMIT = 1_000_000
FRAME = b"data: " + b"x" * 9_992 + b"\n\n"


async def hear(recording: Recording, pause: float = 0.0) -> bytes:
    """All of it, at most."""
    follower = recording.join()
    heard = b""
    try:
        while data := await recording.more(follower):
            heard += data
            await asyncio.sleep(pause)
        return heard + (recording.last or b"")
    finally:
        recording.leave(follower)


def gather(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    async def main() -> list[Any]:
        return list(await asyncio.gather(*work))

    return asyncio.run(main())


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=100), st.integers(0, 2**32))
def test_everyone_hears_the_same_from_the_beginning_whenever_they_come(frames: list[bytes], seed: int) -> None:
    recording, rng = Recording(LIMIT, Memory(LIMIT)), random.Random(seed)

    async def write() -> None:
        recording.begin([])
        for frame in frames:
            await recording.write(frame)
            for _ in range(rng.randint(0, 2)):
                await asyncio.sleep(0)
        assert recording.whole(b"[DONE]") == b"".join(frames) + b"[DONE]"
        recording.end(b"[DONE]")

    async def late() -> bytes:
        for _ in range(rng.randint(0, 200)):
            await asyncio.sleep(0)
        return await hear(recording)

    heard = gather(write(), *(late() for _ in range(5)))[1:]
    assert set(heard) == {b"".join(frames) + b"[DONE]"}


def test_the_writer_of_a_large_answer_waits_for_the_slowest_who_follows() -> None:
    memory = Memory(100 * LIMIT)
    recording = Recording(LIMIT, memory)
    most = 0

    async def write() -> None:
        nonlocal most
        for _ in range(1_000):
            await recording.write(FRAME)
            most = max(most, memory.used)
        assert recording.whole(b"end") is None
        recording.end(b"end")

    slow, fast, _ = gather(hear(recording, 0.0005), hear(recording), write())
    assert slow == fast == FRAME * 1_000 + b"end"
    assert most <= LIMIT + len(FRAME)
    with pytest.raises(Conflict, match="too large"):
        recording.join()
    recording.forget()
    assert memory.used == 0


def test_a_large_answer_that_nobody_follows_goes_on_and_is_not_held() -> None:
    memory = Memory(100 * LIMIT)
    recording = Recording(LIMIT, memory)

    async def main() -> None:
        follower = recording.join()
        writing = asyncio.ensure_future(write())
        await asyncio.sleep(0.01)
        assert not writing.done()
        recording.leave(follower)
        await writing

    async def write() -> None:
        for _ in range(1_000):
            await recording.write(FRAME)

    asyncio.run(main())
    assert memory.used <= AHEAD


def test_all_recordings_together_stay_within_the_memory_of_the_process() -> None:
    memory = Memory(LIMIT)
    recordings = [Recording(LIMIT, memory) for _ in range(20)]

    async def main() -> None:
        for _ in range(90):
            for recording in recordings:
                await recording.write(FRAME)

    asyncio.run(main())
    assert memory.used <= LIMIT + len(FRAME)
    assert any(recording.large for recording in recordings)
    for recording in recordings:
        recording.forget()
    assert memory.used == 0


def test_kept_answers_that_are_replayed_count_too() -> None:
    memory = Memory(LIMIT)
    recordings = [Recording(LIMIT, memory) for _ in range(3)]
    followers = [recording.join() for recording in recordings]
    for recording in recordings[:2]:
        recording.replay([], b"x" * 400_000)
    with pytest.raises(Overloaded):
        recordings[2].replay([], b"x" * 400_000)
    assert memory.used == 800_000
    recordings[0].leave(followers[0])
    recordings[0].forget()
    recordings[2].replay([], b"x" * 400_000)
    for recording in recordings:
        recording.forget()
    assert memory.used == 0
    lone = Recording(LIMIT, memory)
    lone.replay([], b"x" * 2 * LIMIT)  # kept when more was allowed: alone it has its turn
    assert lone.last is not None
    assert not lone.large


def test_what_ended_well_is_not_failed_afterwards_and_what_failed_tells_each_follower_its_own() -> None:
    async def main() -> None:
        good, bad = Recording(LIMIT, Memory(LIMIT)), Recording(LIMIT, Memory(LIMIT))
        good.end(b"all")
        good.fail(Truncated("cut"))
        assert await hear(good) == b"all"
        await bad.write(b"some")
        bad.fail(Truncated("cut", code="why"))
        caught = []
        for _ in range(2):
            with pytest.raises(Truncated) as error:
                await hear(bad)
            caught.append(error.value)
        assert caught[0] is not caught[1]
        assert [(error.message, error.code, error.status) for error in caught] == [("cut", "why", 502)] * 2

    asyncio.run(main())

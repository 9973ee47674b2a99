"""The engine's process: it answers, cancels, dies cleanly, comes back, and never outlives its parent."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from headgate.core.clock import SystemClock
from headgate.core.errors import BadCall, Overloaded
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.client import EngineClient
from headgate.engine.front.generation import Generation
from headgate.engine.plan import SamplingParams
from headgate.engine.settings import EngineSettings
from tests.engine import reference, tiny

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


def run(
    folder: Path,
    work: Callable[[EngineClient], Coroutine[Any, Any, None]],
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    **settings: float,
) -> None:
    async def main() -> None:
        client = await EngineClient.start(folder, msgspec.convert(settings, EngineSettings), clock=SystemClock())
        try:
            await work(client)
        finally:
            await client.aclose()
        assert client.pid is None

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main(), 60))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def text(generation: Generation) -> list[int]:
    return [token async for delta in generation for token in delta.tokens]


async def ended(awaitable: Awaitable[list[int]]) -> str:
    try:
        await awaitable
    except Overloaded:
        return "overloaded"
    return "complete"


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def test_it_is_ready_after_a_real_token_and_generates_the_references_text(tmp_path: Path) -> None:
    tensors = tiny.write(tmp_path)

    async def work(client: EngineClient) -> None:
        assert client.ready
        assert set(client.phases) == {"import", "config", "weights", "grammar", "kv_cache", "first_token"}
        prompts = [[1, 2, 3], [50] * 40, [96]]
        generations = [client.submit([tuple(prompt)], GREEDY, max_tokens=40) for prompt in prompts]
        for prompt, answer in zip(prompts, await asyncio.gather(*map(text, generations)), strict=True):
            assert answer == reference.greedy(tiny.CONFIG, tensors, prompt, 40)
        assert client.stats.generated_tokens == 120
        assert client.stats.prompt_tokens == 44
        assert (client.stats.running, client.stats.waiting, client.stats.kv_usage) == (0, 0, 0.0)

    run(tmp_path, work)


def test_choices_interleave_and_each_ends_once(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        params = SamplingParams(temperature=1.0, seed=3, stop_ids=(2,), logprobs=2)
        finishes: dict[int, str] = {}
        lengths = dict.fromkeys(range(4), 0)
        async for delta in client.submit([(7, 8)], params, max_tokens=30, choices=4):
            assert delta.choice not in finishes
            assert delta.scores is not None
            assert len(delta.scores) == len(delta.tokens)
            assert all(len(score.top) == 2 and score.logprob <= 0 for score in delta.scores)
            lengths[delta.choice] += len(delta.tokens)
            if delta.finish is not None:
                finishes[delta.choice] = delta.finish
        assert set(finishes) == {0, 1, 2, 3}
        assert all(finishes[choice] == "stop" or lengths[choice] == 30 for choice in range(4))

    run(folder, work)


def test_a_slow_reader_gets_merged_deltas_and_every_token(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        expected = await text(client.submit([(4, 5)], GREEDY, max_tokens=300))
        generation = client.submit([(4, 5)], GREEDY, max_tokens=300)
        await until(lambda: generation.open == 0)
        deltas = [delta async for delta in generation]
        assert len(deltas) == 1
        assert deltas[0].tokens == expected
        assert deltas[0].finish == "length"

    run(folder, work)


def test_a_closed_reader_frees_its_blocks_and_others_go_on(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        expected = await text(client.submit([(9,)], GREEDY, max_tokens=100))
        leaving = [client.submit([(3,) * 30], GREEDY, max_tokens=480) for _ in range(8)]
        staying = client.submit([(9,)], GREEDY, max_tokens=100)
        for generation in leaving:
            await anext(generation)
        drawn = client.stats.generated_tokens
        for generation in leaving:
            generation.close()
        assert await text(staying) == expected
        await until(lambda: client.stats.kv_blocks_used == 0)
        assert client.stats.running == client.stats.waiting == 0
        assert client.stats.generated_tokens - drawn < 8 * 100 + 200

    run(folder, work)


def test_one_choice_can_be_cancelled_while_the_others_finish(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        params = SamplingParams(temperature=1.0, seed=1, ignore_eos=True)
        generation = client.submit([(7, 8)], params, max_tokens=50, choices=3)
        counts = [0, 0, 0]
        async for delta in generation:
            counts[delta.choice] += len(delta.tokens)
            if delta.choice == 1:
                generation.cancel(1)
        assert counts[0] == counts[2] == 50
        assert counts[1] < 50
        await until(lambda: client.stats.kv_blocks_used == 0)

    run(folder, work)


def test_what_never_fits_is_refused_with_the_numbers(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        with pytest.raises(BadCall, match=r"512 tokens, but 620 were requested: 600 in the prompt and 20") as caught:
            client.submit([(1,) * 600], GREEDY, max_tokens=20)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(BadCall, match="empty"):
            client.submit([()], GREEDY, max_tokens=20)
        with pytest.raises(BadCall, match="between 0 and 96"):
            client.submit([(97,)], GREEDY, max_tokens=20)

    run(folder, work)


def test_a_full_queue_refuses_at_once_and_takes_again_later(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        held = [client.submit([(1,)], GREEDY, max_tokens=400) for _ in range(5)]
        with pytest.raises(Overloaded, match="5 sequences are in flight"):
            client.submit([(1,)], GREEDY, max_tokens=1)
        held[0].close()
        assert len(await text(client.submit([(1,)], GREEDY, max_tokens=3))) == 3
        for generation in held:
            generation.close()

    run(folder, work, max_sequences=2, max_waiting=3)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_killed_worker_fails_what_was_in_flight_and_is_replaced(
    loop: Callable[[], asyncio.AbstractEventLoop], folder: Path
) -> None:
    async def work(client: EngineClient) -> None:
        expected = await text(client.submit([(9,)], GREEDY, max_tokens=20))
        before = client.stats
        generations = [client.submit([(3,)], GREEDY, max_tokens=500) for _ in range(3)]
        await anext(generations[0])
        first = client.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        outcomes = await asyncio.gather(*(ended(text(generation)) for generation in generations))
        assert outcomes == ["overloaded"] * 3
        with pytest.raises(Overloaded):
            client.submit([(9,)], GREEDY, max_tokens=20)
        await client.wait_ready()
        assert client.pid != first
        assert client.restarts == 1
        assert await text(client.submit([(9,)], GREEDY, max_tokens=20)) == expected
        assert client.stats.generated_tokens >= before.generated_tokens + 20

    run(folder, work, loop)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_worker_that_hangs_is_killed_and_replaced_and_its_calls_fail(
    loop: Callable[[], asyncio.AbstractEventLoop], folder: Path
) -> None:
    async def work(client: EngineClient) -> None:
        generations = [client.submit([(3,)], GREEDY, max_tokens=500) for _ in range(3)]
        await anext(generations[0])
        first = client.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        for generation in generations:
            with pytest.raises(Overloaded, match="gave no sign"):
                await text(generation)
        assert not client.ready
        assert client.trouble
        await client.wait_ready()
        assert client.pid != first
        assert not client.trouble
        assert not alive(first)
        assert len(await text(client.submit([(9,)], GREEDY, max_tokens=20))) == 20

    run(folder, work, loop, hang_s=0.4)


def test_callers_who_give_up_early_do_not_hide_that_the_worker_hangs(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        first = client.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        while client.ready:
            generation = client.submit([(3,)], GREEDY, max_tokens=500)
            await asyncio.sleep(0.05)
            generation.close()
        await client.wait_ready()
        assert client.pid != first

    run(folder, work, hang_s=0.4)


def test_an_idle_worker_is_not_taken_for_a_hung_one(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        for _ in range(2):
            assert len(await text(client.submit([(9,)], GREEDY, max_tokens=20))) == 20
            await asyncio.sleep(0.6)
        assert client.restarts == 0

    run(folder, work, hang_s=0.2)


def test_a_start_that_fails_for_want_of_files_is_tried_again(folder: Path) -> None:
    async def main() -> None:
        client = EngineClient(folder, clock=SystemClock())
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # what is open stays open
        try:
            client.launch()
            await until(lambda: "cannot be started" in client.trouble)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await client.wait_ready()
        assert len(await text(client.submit([(9,)], GREEDY, max_tokens=20))) == 20
        await client.aclose()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_interrupts_and_terminations_are_left_to_the_parent(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        generation = client.submit([(9,)], GREEDY, max_tokens=400)
        await anext(generation)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGINT)
        os.kill(client.pid, signal.SIGTERM)
        assert len(await text(generation)) >= 1
        assert client.restarts == 0

    run(folder, work)


def test_drain_finishes_what_runs_and_refuses_more(folder: Path) -> None:
    async def work(client: EngineClient) -> None:
        generation = client.submit([(9,)], GREEDY, max_tokens=200)
        reading = asyncio.ensure_future(text(generation))
        await asyncio.sleep(0)
        await client.drain()
        with pytest.raises(Overloaded, match="shutting down"):
            client.submit([(9,)], GREEDY, max_tokens=1)
        assert len(await reading) == 200

    run(folder, work)


def test_closing_fails_what_is_in_flight(folder: Path) -> None:
    async def main() -> None:
        client = await EngineClient.start(folder, clock=SystemClock())
        generation = client.submit([(9,)], GREEDY, max_tokens=500)
        await anext(generation)
        pid = client.pid
        await client.aclose()
        assert await ended(text(generation)) == "overloaded"
        assert pid is not None
        assert not alive(pid)

    asyncio.run(main())


def test_a_folder_that_cannot_be_served_stops_the_start_and_says_why(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.config(hidden_act="gelu"))

    async def main() -> None:
        with pytest.raises(ModelFolderError, match="activation 'gelu' is not supported"):
            await EngineClient.start(tmp_path, clock=SystemClock())

    asyncio.run(main())


def test_the_worker_ends_when_its_parent_is_killed(folder: Path) -> None:
    program = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from headgate.core.clock import SystemClock
        from headgate.engine.front.client import EngineClient
        from headgate.engine.plan import SamplingParams

        async def main():
            client = await EngineClient.start(Path(sys.argv[1]), clock=SystemClock())
            generation = client.submit([(1,)], SamplingParams(ignore_eos=True), max_tokens=500)
            await anext(generation)
            print(client.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)

"""The encoder's process: vectors come back to who asked, in any company; it cancels, dies cleanly, comes back."""

import asyncio
import os
import signal
from array import array
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from headgate.core.clock import SystemClock
from headgate.core.errors import BadCall, Overloaded
from headgate.engine.encoder_wire import Encode, Text
from headgate.engine.encoding.client import EncoderClient
from headgate.engine.encoding.work import EncoderWorker
from headgate.engine.errors import ModelFolderError
from headgate.engine.plan import Share
from headgate.engine.settings import EncoderSettings, EngineSettings
from headgate.engine.wire import Cancel
from tests.engine import encoders
from tests.engine.test_encoder_runner import runner, some_texts

Work = Callable[[EncoderClient], Coroutine[Any, Any, None]]
Ask = Callable[[Work], None]


def run(folder: Path, work: Work, **settings: float) -> None:
    async def main() -> None:
        wanted = EngineSettings(encoder=msgspec.convert(settings, EncoderSettings))
        client = await EncoderClient.start(folder, wanted, clock=SystemClock())
        try:
            await work(client)
        finally:
            await client.aclose()
        assert client.pid is None

    asyncio.run(asyncio.wait_for(main(), 60))


def rows(data: bytes, size: int = 32) -> Any:
    return np.frombuffer(data, "<f4").reshape(-1, size)


@pytest.fixture(scope="module")
def ask(folder: Path) -> Iterator[Ask]:
    """Runs work with one client whose process all tests of this kind share."""
    with asyncio.Runner() as loop:
        client = loop.run(EncoderClient.start(folder, clock=SystemClock()))
        yield lambda work: loop.run(asyncio.wait_for(work(client), 60))
        loop.run(client.aclose())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("encoder")
    encoders.write(made)
    return made


def test_many_callers_at_once_each_get_their_own_vectors(ask: Ask, folder: Path) -> None:
    plain = runner(folder)

    async def work(client: EncoderClient) -> None:
        before = client.stats
        asked = [some_texts(1 + seed % 7, 30, seed=seed) for seed in range(40)]
        answers = await asyncio.gather(*(client.encode(texts) for texts in asked))
        for texts, data in zip(asked, answers, strict=True):
            assert np.abs(rows(data) - plain.encode(texts)).max() < 2e-6
        assert client.stats.requests - before.requests == 40
        assert client.stats.steps - before.steps < 40
        assert client.stats.texts - before.texts == sum(map(len, asked))
        assert client.in_flight == client.stats.waiting == 0

    ask(work)


def test_dimensions_cut_vectors_and_make_them_one_long_again(ask: Ask) -> None:
    async def work(client: EncoderClient) -> None:
        texts = some_texts(3, 10)
        whole, cut = rows(await client.encode(texts)), rows(await client.encode(texts, dimensions=5), 5)
        meant = whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True)
        assert np.abs(cut - meant).max() < 1e-6
        with pytest.raises(BadCall, match=r"32 dimensions; 33") as refused:
            await client.encode(texts, dimensions=33)
        assert refused.value.param == "dimensions"

    ask(work)


def test_cosines_are_those_of_the_first_text_with_each_of_the_others(ask: Ask) -> None:
    async def work(client: EncoderClient) -> None:
        texts = some_texts(6, 20)
        vectors = rows(await client.encode(texts))
        found = array("f", await client.encode(texts, cosines=True))
        assert list(found) == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-6)

    ask(work)


def test_what_was_computed_is_found_again_by_the_same_tenant_only(ask: Ask) -> None:
    async def work(client: EncoderClient) -> None:
        texts = some_texts(4, 20, seed=77)
        first = await client.encode(texts, share=Share(salt="a"))
        steps, hits = client.stats.steps, client.stats.hits
        assert await client.encode(texts, share=Share(salt="a")) == first
        assert (client.stats.steps, client.stats.hits) == (steps, hits + 4)
        assert await client.encode(texts, share=Share(salt="b")) == first
        assert (client.stats.steps > steps, client.stats.hits) == (True, hits + 4)
        assert await client.encode(texts, share=Share(salt="a"), fresh=True) == first
        assert client.stats.hits == hits + 4

    ask(work)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [((), "no tokens"), (tuple([5] * 65), "64 tokens, but an input has 65"), ((101,), "0 and 100"), ((-1,), "0 and")],
)
def test_what_can_never_be_encoded_is_refused_at_once(ask: Ask, tokens: tuple[int, ...], words: str) -> None:
    async def work(client: EncoderClient) -> None:
        with pytest.raises(BadCall, match=words) as refused:
            await client.encode([Text((1, 2)), Text(tokens)])
        assert refused.value.param == "input"

    ask(work)


def test_a_full_queue_refuses_but_takes_any_request_by_itself(folder: Path) -> None:
    async def work(client: EncoderClient) -> None:
        big = asyncio.ensure_future(client.encode(some_texts(50, 30)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="50 texts are in flight"):
            await client.encode(some_texts(1, 5))
        assert len(rows(await big)) == 50
        assert len(rows(await client.encode(some_texts(1, 5)))) == 1

    run(folder, work, max_waiting=10)


def test_who_leaves_takes_the_work_along(ask: Ask) -> None:
    async def work(client: EncoderClient) -> None:
        before = client.stats.tokens
        leaving = asyncio.ensure_future(client.encode(some_texts(2000, 60)))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert client.in_flight == 0
        await client.encode(some_texts(1, 5))
        assert client.stats.waiting == 0
        assert client.stats.tokens - before < 20_000

    ask(work)


def test_a_process_that_dies_fails_what_is_in_flight_and_is_replaced(folder: Path) -> None:
    async def work(client: EncoderClient) -> None:
        await client.encode(some_texts(2, 5))
        flying = asyncio.ensure_future(client.encode(some_texts(2000, 60)))
        await asyncio.sleep(0)
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(Overloaded):
            await flying
        while not client.ready:
            await asyncio.sleep(0.01)
        assert len(rows(await client.encode(some_texts(2, 5)))) == 2
        assert client.restarts == 1
        assert client.stats.requests == 2

    run(folder, work)


def test_draining_answers_what_is_in_flight_and_refuses_the_rest(folder: Path) -> None:
    async def work(client: EncoderClient) -> None:
        flying = asyncio.ensure_future(client.encode(some_texts(30, 20)))
        await asyncio.sleep(0)
        await client.drain()
        assert len(rows(await flying)) == 30
        with pytest.raises(Overloaded, match="shutting down"):
            await client.encode(some_texts(1, 5))

    run(folder, work)


def test_a_folder_that_cannot_be_served_says_so(tmp_path: Path) -> None:
    encoders.write(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")

    async def main() -> None:
        with pytest.raises(ModelFolderError, match=r"model\.safetensors"):
            await EncoderClient.start(tmp_path, clock=SystemClock())

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_request_that_is_cancelled_between_steps_leaves_nothing_behind(folder: Path) -> None:
    worker = EncoderWorker(runner(folder), EncoderSettings(max_batch_tokens=20), SystemClock())
    worker.submit(Encode(1, tuple(some_texts(30, 9))))
    worker.submit(Encode(2, tuple(some_texts(2, 9, seed=1))))
    worker.step()
    worker.cancel(Cancel(1))
    while worker.busy:
        worker.step()
    report = worker.report()
    assert [done.request for done in report.done] == [2]
    assert report.stats.waiting == 0
    worker.cancel(Cancel(2))

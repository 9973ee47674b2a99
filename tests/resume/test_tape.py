"""The end of a stream in progress: numbered, held as long as somebody needs it, and no longer."""

import asyncio

from headgate.api.errors import openai_frame
from headgate.api.recording import Memory
from headgate.api.tape import AHEAD, Tape, frames_of
from headgate.core.errors import Truncated

NAME = "req_x"
MIB = 1024 * 1024


async def nobody() -> bool:
    return False


def numbered(*frames: bytes) -> list[bytes]:
    return [b"id: req_x:%d\n%b" % (number, frame) for number, frame in enumerate(frames, 1)]


def test_a_write_of_several_frames_is_as_many_frames() -> None:
    one, two = b"data: 1\n\n", b"event: x\ndata: 2\n\n"
    assert frames_of(one) == [one]
    assert frames_of(one + two + one) == [one, two, one]
    assert frames_of(b"") == []


def test_both_readers_get_every_frame_once_and_nothing_stays() -> None:
    async def main() -> None:
        memory = Memory(MIB)
        tape = Tape(NAME, MIB, memory, nobody)
        caller, store = tape.caller, tape.store
        assert caller is not None
        assert store is not None
        tape.begin([(b"a", b"b")])
        await tape.write(b"data: 1\n\ndata: 2\n\n")
        assert await tape.more(caller) == (numbered(b"data: 1\n\n", b"data: 2\n\n"), False)
        assert memory.used > 0
        assert await tape.more(store) == (numbered(b"data: 1\n\n", b"data: 2\n\n"), False)
        assert memory.used == 0
        tape.end(b"data: 3\n\ndata: [DONE]\n\n")
        last = numbered(b"", b"", b"data: 3\n\n", b"data: [DONE]\n\n")[2:]
        assert await tape.more(caller) == (last, True)
        assert await tape.more(store) == (last, True)
        assert memory.used == 0

    asyncio.run(main())


def test_an_error_is_the_last_frame_and_has_a_number_too() -> None:
    async def main() -> None:
        tape = Tape(NAME, MIB, Memory(MIB), nobody)
        caller = tape.caller
        assert caller is not None
        tape.begin(())
        await tape.write(b"data: 1\n\n")
        error = Truncated("cut")
        tape.fail(error)
        tape.fail(Truncated("again"))
        assert await tape.more(caller) == (numbered(b"data: 1\n\n", openai_frame(error)), True)
        assert tape.error is error

    asyncio.run(main())


def test_the_writer_waits_for_the_caller_who_listens_and_not_for_the_store() -> None:
    async def main() -> None:
        memory = Memory(64 * MIB)
        tape = Tape(NAME, 64 * MIB, memory, nobody)
        caller = tape.caller
        assert caller is not None
        frame = b"data: %b\n\n" % (b"x" * 1000)

        async def write() -> None:
            for _ in range(1000):
                await tape.write(frame)

        writing = asyncio.ensure_future(write())
        got = 0
        for _ in range(20):
            await asyncio.sleep(0)
        assert not writing.done()
        assert memory.used <= AHEAD + 2 * len(frame)
        while got < 1000:
            frames, _ = await tape.more(caller)
            got += len(frames)
        await writing
        assert memory.used > 1000 * len(frame)  # all of it waits for the store

    asyncio.run(main())


def test_a_store_too_far_behind_is_given_up_and_holds_nothing() -> None:
    async def main() -> None:
        for limit, process in ((4096, MIB), (MIB, 4096)):
            memory = Memory(process)
            tape = Tape(NAME, limit, memory, nobody)
            store = tape.store
            assert store is not None
            tape.caller_left()
            for _ in range(10):
                await tape.write(b"data: %b\n\n" % (b"x" * 1000))
            assert tape.store is None
            assert memory.used == 0
            assert await tape.more(store) == ([], True)

    asyncio.run(main())


def test_a_reader_that_waits_hears_of_frames_and_of_the_end() -> None:
    async def main() -> None:
        tape = Tape(NAME, MIB, Memory(MIB), nobody)
        caller = tape.caller
        assert caller is not None
        begun, more = asyncio.ensure_future(tape.begun()), asyncio.ensure_future(tape.more(caller))
        await asyncio.sleep(0)
        assert not begun.done()
        tape.begin(())
        await begun
        await tape.write(b"data: 1\n\n")
        assert (await more)[1] is False
        end = asyncio.ensure_future(tape.more(caller))
        await asyncio.sleep(0)
        tape.end(b"")
        assert await end == ([], True)

    asyncio.run(main())

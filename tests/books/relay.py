"""The losing proxy for requests of any length: answers go on as they come, whether a request came whole or not."""

import asyncio
import contextlib

from tests.storage.limits.proxy import Proxy


class Relay(Proxy):
    """Knows the fates `before` and `after`."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            up_reader, up_writer = await self._connect()
            answers = asyncio.get_running_loop().create_task(_pass_on(up_reader, writer))
            try:
                while request := await reader.read(1 << 20):
                    fate = None
                    if b"EVAL" in request:
                        self.scripts += 1
                        fate = self.fates.popleft() if self.fates else None
                    if fate == "before":
                        break
                    if fate == "after":
                        answers.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await answers
                        up_writer.write(request)
                        await up_reader.read(1 << 20)
                        break
                    up_writer.write(request)
            finally:
                answers.cancel()
                up_writer.close()
                writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while answer := await reader.read(1 << 20):
            writer.write(answer)

"""A connection that died without a word, as those of phones do, does not hold up the client that comes back."""

import asyncio
import socket
from pathlib import Path

from tests.idempotency.upstream import counting
from tests.live import serving
from tests.resume.talk import DONE, get, post, streamed, take
from tests.resume.test_live import CONFIG

TOKENS = 30_000
"""Far more than the buffers between server and client hold."""


async def dies(port: int, data: bytes) -> tuple[socket.socket, str]:
    """Sends, reads the head, and takes nothing more."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, data)
    head = b""
    while b"\r\n\r\n" not in head:
        head += await loop.sock_recv(client, 1024)
    lines = head.decode("latin-1").split("\r\n")
    return client, next(line.partition(": ")[2] for line in lines if line.startswith("x-headgate-stream"))


def test_who_comes_back_gets_all_of_it_while_the_dead_connection_stands(tmp_path: Path) -> None:
    async def main(port: int) -> None:
        client, name = await dies(port, post(streamed("dead", f"ok:tokens={TOKENS}")))
        with client:
            part = await take(port, get(name))
            assert part.frames[-1].endswith(DONE), part.frames[-1]
            assert len(part.frames) == TOKENS + 3

    with counting() as upstream:
        config = CONFIG.format(upstream=upstream, grace_s=30, more=", stream_mb: 32")
        with serving(tmp_path, config) as live:
            asyncio.run(main(live.port))

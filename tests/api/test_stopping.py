"""A server that stops takes in who has connected already, and nobody else."""

import asyncio
import errno
import socket

from tests.api.house import House

KNOCKS = 300


def knock(port: int) -> socket.socket:
    """Connects without waiting for it; on this machine the kernel knows at once what becomes of it."""
    peer = socket.socket()
    peer.setblocking(False)
    assert peer.connect_ex(("127.0.0.1", port)) in {0, errno.EINPROGRESS, errno.ECONNREFUSED}
    return peer


def test_clients_that_go_on_connecting_do_not_keep_a_server_from_stopping() -> None:
    peers: list[socket.socket] = []
    refused = []
    with House() as house:

        async def stop_meanwhile() -> None:
            async def go_on() -> None:
                for _ in range(KNOCKS):
                    peers.append(knock(house.port))
                    await asyncio.sleep(0)  # one more in each turn of the server's own loop

            async with asyncio.TaskGroup() as group:
                group.create_task(go_on())
                await asyncio.sleep(0)
                await house.server.stop()

        asyncio.run_coroutine_threadsafe(stop_meanwhile(), house.loop).result(20)
    for peer in peers:
        refused.append(peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED)
        peer.close()
    print(f"{sum(refused)} of {KNOCKS} refused")
    assert sum(refused) > KNOCKS * 0.9

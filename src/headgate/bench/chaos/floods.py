"""Faults by size: more bytes than an honest server ever sends, written without holding them here."""

import zlib

from headgate.bench.chaos.fault import Exchange, Order

_BLOCK = 1 << 20
_SLICE = 1 << 16


def _zeros() -> tuple[bytes, bytes]:
    """A megabyte of zeros deflated: the first block of a stream, and one that can follow any number of times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = packer.compress(b"0" * _BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b"0" * _BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    return first, again


async def gzip_bomb(exchange: Exchange, order: Order) -> bool:
    """Answers with zeros, a thousand times smaller on the wire (RFC 1952)."""
    count = order.whole("mb", 1024)
    script = exchange.script.altered(events=(), headers=(*exchange.script.headers, ("content-encoding", "gzip")))
    await exchange.write(script.head() + script.framed(bytes.fromhex("1f8b08000000000000ff")))
    first, again = _zeros()
    zeros = b"0" * _BLOCK
    crc = 0
    for number in range(count):
        crc = zlib.crc32(zeros, crc)
        await exchange.write(script.framed(first if number == 0 else again))
    size = (count * _BLOCK) & 0xFFFFFFFF
    last = b"\x03\x00" + crc.to_bytes(4, "little") + size.to_bytes(4, "little")
    await exchange.write(script.framed(last) + script.end())
    return True


async def huge_headers(exchange: Exchange, order: Order) -> bool:
    if order.word("kind", "size") == "count":
        more = tuple((f"x-{number}", "1") for number in range(order.whole("size", 20_000)))
    else:
        more = (("x-big", "a" * order.whole("size", 1_000_000)),)
    await exchange.write(exchange.script.altered(headers=more).wire())
    return True


async def endless(exchange: Exchange, order: Order) -> bool:
    """Never ends: the same event again and again, or white space in a body."""
    script = exchange.script
    if script.events is None:
        script = script.altered(events=())
        data = b" " * _SLICE
    else:
        data = script.events[min(3, len(script.events) - 1)]
        data *= max(order.whole("size", 4096) // len(data), 1)
    await exchange.write(script.head())
    while True:
        await exchange.write(script.framed(data))


async def huge_event(exchange: Exchange, order: Order) -> bool:
    """One event, or one string in the body, of so many megabytes; then the honest rest."""
    script = exchange.script
    stream = script.events is not None
    rest = script.events or (script.body[1:],)
    script = script.altered(events=rest)
    await exchange.write(script.head())
    await exchange.write(script.framed(b'data: {"padding":"' if stream else b'{"padding":"'))
    for _ in range(order.whole("mb", 16) * _BLOCK // _SLICE):
        await exchange.write(script.framed(b"x" * _SLICE))
    await exchange.write(script.framed(b'","choices":[]}\n\n' if stream else b'",'))
    await exchange.write(b"".join(map(script.framed, rest)) + script.end())
    return True

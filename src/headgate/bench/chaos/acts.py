"""Faults in the writing of an answer: its bytes late, slow, cut, reset, or none."""

from headgate.bench.chaos.fault import Exchange, Order

_EVER = 3600.0
"""Seconds that stand for ever: no client waits longer."""
GARBAGE = bytes.fromhex("15030f00ff") + bytes(range(128, 256))
ALERT = bytes.fromhex("15030300020228")
_PAGE = b"<html><body>The plain HTTP request was sent to HTTPS port</body></html>"
PLAIN = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_PAGE), _PAGE)


async def honest(exchange: Exchange, order: Order) -> bool:
    return await _rest(exchange, 0)


async def _rest(exchange: Exchange, after: int) -> bool:
    script = exchange.script
    await exchange.send(after)
    await exchange.write(script.end())
    return not script.close_framed


async def refuse(exchange: Exchange, order: Order) -> bool:
    exchange.host.refuse(order.number("s", 1.0))
    await exchange.reset()
    return False


async def tls(exchange: Exchange, order: Order) -> bool:
    style = order.word("style", "garbage")
    if style == "silent":
        await exchange.clock.sleep(_EVER)
    await exchange.write({"alert": ALERT, "plain": PLAIN}.get(style, GARBAGE))
    return False


async def no_head(exchange: Exchange, order: Order) -> bool:
    await exchange.clock.sleep(order.number("s", _EVER))
    return False


async def slow_head(exchange: Exchange, order: Order) -> bool:
    await exchange.clock.sleep(order.number("s", 5.0))
    return await honest(exchange, order)


async def slow_first(exchange: Exchange, order: Order) -> bool:
    await exchange.send(0, 0)
    await exchange.clock.sleep(order.number("s", 5.0))
    return await _rest(exchange, 0)


async def stall(exchange: Exchange, order: Order) -> bool:
    after = order.whole("after", 1)
    await exchange.send(0, after)
    await exchange.clock.sleep(order.number("s", _EVER))
    return await _rest(exchange, after)


async def cut(exchange: Exchange, order: Order) -> bool:
    await exchange.send(0, order.whole("after", 1))
    if order.whole("end", 0):
        await exchange.write(exchange.script.end())
    return False


async def cut_event(exchange: Exchange, order: Order) -> bool:
    after = order.whole("after", 1)
    await exchange.send(0, after)
    pieces = exchange.script.pieces()
    if after < len(pieces):
        piece = exchange.script.framed(pieces[after])
        await exchange.write(piece[: len(piece) // 2])
    return False


async def cut_utf8(exchange: Exchange, order: Order) -> bool:
    """Ends on the first byte of a character of several; without one, as `cut_event`."""
    after = order.whole("after", 1)
    pieces = exchange.script.pieces()
    for place in range(after, len(pieces)):
        wide = next((index for index, byte in enumerate(pieces[place]) if byte >= 0xC2), None)
        if wide is not None:
            await exchange.send(0, place)
            part = pieces[place][: wide + 1]
            framing = exchange.script.framed(pieces[place]).partition(part)[0]
            await exchange.write(framing + part)
            return False
    return await cut_event(exchange, order)


async def reset(exchange: Exchange, order: Order) -> bool:
    await exchange.send(0, order.whole("after", 1))
    await exchange.reset()
    return False


async def reset_reuse(exchange: Exchange, order: Order) -> bool:
    if not exchange.used:
        return await honest(exchange, order)
    await exchange.reset()
    return False


async def slow_drip(exchange: Exchange, order: Order) -> bool:
    pause = order.number("ms", 5.0) / 1000
    for byte in exchange.script.wire():
        await exchange.write(bytes((byte,)))
        await exchange.clock.sleep(pause)
    return not exchange.script.close_framed


async def only_comments(exchange: Exchange, order: Order) -> bool:
    """Signs of life, and no answer: white space in a body."""
    script = exchange.script if exchange.script.events is not None else exchange.script.altered(events=())
    await exchange.write(script.head())
    pause = order.number("ms", 50.0) / 1000
    sign = b": still there\n\n" if exchange.script.events is not None else b" "
    for _ in range(int(order.number("s", _EVER) / max(pause, 0.001))):
        await exchange.write(script.framed(sign))
        await exchange.clock.sleep(pause)
    return False

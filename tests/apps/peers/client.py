"""WebSocket client with the `websockets` library, as client.js: `client.py URL SEED SOCKETS`."""

import asyncio
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

url, seed, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)


def length():
    return draw.choice([0, 1, 125, 126, 127, 65535, 65536, draw.randrange(2000), draw.randrange(300000)])


async def echo(socket):
    size = length()
    data = bytes([draw.randrange(256)]) * size if draw.random() < 0.5 else draw.choice("abc") * size
    pieces = draw.choice([1, 1, 2, 5])
    if pieces == 1:
        await socket.send(data)
    else:
        await socket.send([data[size * n // pieces : size * (n + 1) // pieces] for n in range(pieces)])
    back = await asyncio.wait_for(socket.recv(), 20)
    assert back == data, f"{len(back)} bytes of another message for {size} in {pieces}"


async def ordered(socket):
    pieces, size = draw.randrange(1, 6), draw.randrange(40000)
    await socket.send(f"order:pieces:{pieces}:{size}")
    back = await asyncio.wait_for(socket.recv(), 20)
    assert len(back) == pieces * size, len(back)


async def talk():
    deflate = draw.choice(["deflate", None])
    async with connect(url, max_size=2**26, compression=deflate) as socket:
        for _ in range(draw.randrange(8)):
            await draw.choice([echo, echo, ordered])(socket)
        if draw.random() < 0.3:
            await asyncio.wait_for(await socket.ping(), 20)
        code, reason = draw.choice([(1000, ""), (1000, "done"), (1001, "away"), (draw.randrange(3000, 5000), "mine")])
        if draw.random() < 0.5:
            await socket.close(code, reason)
            assert socket.close_code == code, socket.close_code
            return
        await socket.send(f"order:close:{code}:{reason}")
        try:
            await asyncio.wait_for(socket.recv(), 20)
            assert False, "a message instead of the end"
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (code, reason), closed


async def main():
    for _ in range(count):
        await talk()
    print(f"{count} sockets")


asyncio.run(main())

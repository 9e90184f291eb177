"""The WebSocket server of origin.js with the `websockets` library: `server.py PORT`."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def talk(socket):
    async for message in socket:
        if isinstance(message, str) and message.startswith("order:close:"):
            _, _, code, reason = message.split(":", 3)
            await socket.close(int(code), reason)
        elif isinstance(message, str) and message.startswith("order:pieces:"):
            _, _, count, length = message.split(":")
            await socket.send(["x" * int(length)] * int(count))
        else:
            await socket.send(message)


async def main():
    async with serve(talk, "127.0.0.1", int(sys.argv[1]), max_size=2**26) as server:
        await server.serve_forever()


asyncio.run(main())

"""Clients of the matrix in Python: `matrix.py httpx|aiohttp`, with a plan as JSON in a line of its
standard input. It prints a line for each thing that went wrong, and `ready` once it has tried them all.
After another line, which it confirms with `ready`, it asks each app again and again until its input ends.
"""

import asyncio
import functools
import hashlib
import json
import sys
import time

name = sys.argv[1]
plan = json.loads(sys.stdin.readline())
BASE = plan["base"]
failures = []


@functools.cache
def content(length):
    return (b"edgeway " * (length // 8 + 1))[:length]


@functools.cache
def digest(length):
    return hashlib.sha256(content(length)).hexdigest()


class Httpx:
    """httpx over HTTP/2."""

    async def __aenter__(self):
        import httpx

        self.client = httpx.AsyncClient(http2=True, verify=False, timeout=30)
        return self

    async def __aexit__(self, *_):
        await self.client.aclose()

    async def send(self, method, path, body=None):
        response = await self.client.request(method, BASE + path, content=body)
        return response.status_code, response.content

    async def pieces(self, path):
        async with self.client.stream("GET", BASE + path) as response:
            async for piece in response.aiter_raw():
                yield piece

    echo = None


class Aiohttp:
    """aiohttp over HTTP/1.1."""

    async def __aenter__(self):
        import aiohttp

        self.client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False))
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def send(self, method, path, body=None):
        async with self.client.request(method, BASE + path, data=body) as response:
            return response.status, await response.read()

    async def pieces(self, path):
        async with self.client.get(BASE + path) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def echo(self, path, data):
        async with self.client.ws_connect(BASE + path, max_msg_size=0) as socket:
            await socket.send_bytes(data)
            return await socket.receive_bytes(timeout=20)


async def upload(client, app, length):
    status, body = await client.send("POST", app["upload"], content(length))
    came = json.loads(body) if status == 200 else {}
    expected = digest(length)
    assert came.get("bytes") == length, (status, body[:100])
    assert came.get("digest", expected) == expected, "another body"


async def download(client, app, length):
    status, body = await client.send("GET", app["download"].replace("BYTES", str(length)))
    assert (status, body == content(length)) == (200, True), (status, len(body))


async def stream(client, app, _):
    times = []
    async for piece in client.pieces(app["stream"]):
        times += [time.monotonic()] * piece.count(b"data:")
    assert len(times) == 4 and times[3] - times[0] > 0.05, times


async def refusal(client, app, case):
    path, length, expected = case
    status, _ = await client.send("POST", app["at"] + path, content(length))
    assert status == expected, status


async def socket(client, app, length):
    assert await client.echo(app["ws"], content(length)) == content(length)


async def tried(client, app, scenario, case):
    try:
        await asyncio.wait_for(scenario(client, app, case), 40)
    except Exception as error:  # noqa: BLE001
        failures.append(f"{name} {app['name']} {scenario.__name__} {case}: {error!r}")


async def scenarios(client, app):
    for length in plan["lengths"]:
        await tried(client, app, upload, length)
        if app.get("download"):
            await tried(client, app, download, length)
        if app.get("ws") and client.echo:
            await tried(client, app, socket, length)
    for case in plan["refusals"]:
        await tried(client, app, refusal, case)
    await tried(client, app, stream, None)


async def waits(client, app, stop):
    while not stop.is_set():
        try:
            status, body = await client.send("GET", app["wait"])
            assert status == 200, (status, body[:100])
        except Exception as error:  # noqa: BLE001
            print(f"{name} {app['name']} stop: {error!r}", flush=True)
            return


async def main():
    async with {"httpx": Httpx, "aiohttp": Aiohttp}[name]() as client:
        await asyncio.gather(*(scenarios(client, app) for app in plan["apps"]))
        print("".join(line + "\n" for line in failures) + "ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print("ready", flush=True)
        stop = asyncio.Event()
        asking = [asyncio.create_task(waits(client, app, stop)) for app in plan["apps"]]
        await asyncio.to_thread(sys.stdin.read)
        stop.set()
        await asyncio.gather(*asking)


asyncio.run(main())

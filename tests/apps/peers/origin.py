"""The origin of origin.js for uvicorn: `uvicorn origin:app`."""

import asyncio
import hashlib
import json
from urllib.parse import parse_qs


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        return await websocket(receive, send)
    query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
    path = scope["path"]
    if path == "/stream":
        await stream(query, send)
    elif path == "/upload":
        await upload(receive, send)
    elif path == "/die":
        await die(query, send)
    elif path == "/fails":
        await respond(send, 500, b"it failed", [(b"x-kept", b"1")])
    else:
        await respond(send, 200, b"plain")


async def begin(send, status, headers):
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def piece(send, body, more=True):
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def respond(send, status, body, headers=()):
    await begin(send, status, [*headers, (b"content-length", str(len(body)).encode())])
    await piece(send, body, more=False)


async def stream(query, send):
    await begin(send, 200, [(b"content-type", b"text/plain")])
    for number in range(int(query.get("pieces", 3))):
        await piece(send, f"piece {number}\n".encode())
        await asyncio.sleep(int(query.get("every", 100)) / 1000)
    await piece(send, b"", more=False)


async def upload(receive, send):
    digest, length = hashlib.sha256(), 0
    while True:
        event = await receive()
        body = event.get("body", b"")
        digest.update(body)
        length += len(body)
        if not event.get("more_body"):
            break
    report = json.dumps({"length": length, "sha256": digest.hexdigest()})
    await respond(send, 200, report.encode(), [(b"content-type", b"application/json")])


async def die(query, send):
    headers = [(b"content-length", b"100000")] if query.get("framing") == "length" else []
    await begin(send, 200, headers)
    await piece(send, b"the first of it")
    await asyncio.sleep(0.1)
    # uvicorn closes the connection of an app that fails within a response.
    raise RuntimeError("on request")


async def websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        text = event.get("text")
        if text is None:
            await send({"type": "websocket.send", "bytes": event["bytes"]})
        elif text.startswith("order:close:"):
            _, _, code, reason = text.split(":", 3)
            return await send({"type": "websocket.close", "code": int(code), "reason": reason})
        elif text.startswith("order:pieces:"):
            _, _, count, length = text.split(":")
            await send({"type": "websocket.send", "text": "x" * (int(count) * int(length))})
        else:
            await send({"type": "websocket.send", "text": text})

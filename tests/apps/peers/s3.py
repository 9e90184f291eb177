"""Signatures of S3 with botocore: a store that checks them, and a client that draws what it signs.

`s3.py serve` prints its port. `s3.py ask PORT SEED REQUESTS`, with the port of a gateway in front of
it, prints a line for each request that went wrong, and a summary.
"""

import gzip
import hashlib
import http.client
import json
import random
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
REGION = "us-east-1"
TEXT = b"One line of an object that compresses well.\n" * 200
BODY = b"body"
FORMS = {"gzip": gzip.compress(TEXT, mtime=0), None: TEXT}


class Store(BaseHTTPRequestHandler):
    """Refuses requests whose signature does not fit what arrived, as S3 does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def signature(self):
        """Returns the signature that was sent and the one that the request should have."""
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        if "X-Amz-Signature" in query:
            auth = S3SigV4QueryAuth(KEYS, "s3", REGION)
            signed, sent = query["X-Amz-SignedHeaders"], query["X-Amz-Signature"]
            moment = query["X-Amz-Date"]
            left = [pair for pair in split.query.split("&") if not pair.startswith("X-Amz-Signature=")]
            url = f"http://{self.headers['host']}{split.path}?{'&'.join(left)}"
        else:
            auth = S3SigV4Auth(KEYS, "s3", REGION)
            scheme, _, rest = self.headers.get("authorization", "").partition(" ")
            if scheme != "AWS4-HMAC-SHA256":
                return None, "no signature"
            parts = dict(part.strip().split("=", 1) for part in rest.split(","))
            signed, sent = parts["SignedHeaders"], parts["Signature"]
            moment = self.headers["x-amz-date"]
            url = f"http://{self.headers['host']}{self.path}"
        arrived = AWSRequest(method=self.command, url=url)
        for name in signed.split(";"):
            for value in self.headers.get_all(name, []):
                arrived.headers[name] = value
        arrived.context["timestamp"] = moment
        if isinstance(auth, S3SigV4QueryAuth):
            arrived.context["payload_signing_enabled"] = False
        body = arrived.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        auth.payload = lambda _: body
        text = auth.string_to_sign(arrived, auth.canonical_request(arrived))
        return sent, auth.signature(text, arrived)

    def respond(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        sent, right = self.signature()
        if "plain" not in self.path and sent != right:
            body, status, coding = b"<Error>SignatureDoesNotMatch</Error>", 403, None
        else:
            # Without `Vary`, as many stores.
            coding = "gzip" if "gzip" in self.headers.get("accept-encoding", "") else None
            body, status = FORMS[coding], 200
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("cache-control", "public, max-age=60")
        self.send_header("content-length", str(len(body)))
        self.send_header("etag", f'"{hashlib.md5(body).hexdigest()}"')
        self.send_header("x-arrived", json.dumps(self.headers.get_all("accept-encoding", [])))
        if coding:
            self.send_header("content-encoding", coding)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_DELETE = respond


# Headers that clients of S3 sign, with their values.
SIGNABLE = {
    "Accept-Encoding": ["identity", "gzip", "gzip, deflate, br", "*", "zstd;q=0.5, br"],
    "Cache-Control": ["no-cache", "max-age=0"],
    "Content-MD5": ["1B2M2Y8AsgTpgAmY7PhCfg=="],
    "Content-Type": ["application/octet-stream", "text/plain; charset=utf-8"],
    "If-None-Match": ['"0"', "*"],
    "If-Match": ['"0"'],
    "Range": ["bytes=0-99"],
    "X-Amz-Meta-Name": ["a  b", "e"],
    "X-Amz-Acl": ["private"],
}


def draw(random, port, number):
    """Returns a signed request, as method, target and headers, and if it signs Accept-Encoding."""
    method = random.choice(["GET", "GET", "GET", "HEAD", "PUT", "DELETE"])
    names = ["a", "b c", "ä", "x+y", number, "a//b", "/a", "a///b//c", "a//"]
    path = f"/{random.choice(['bucket', 'cached'])}/{random.choice(names)}"
    names = random.sample(sorted(SIGNABLE), random.randrange(len(SIGNABLE)))
    headers = {name: random.choice(SIGNABLE[name]) for name in names}
    coding = headers.get("Accept-Encoding")
    request = AWSRequest(method=method, url=f"http://127.0.0.1:{port}{quote(path)}", headers=headers)
    if random.random() < 0.25:
        S3SigV4QueryAuth(KEYS, "s3", REGION).add_auth(request)
    else:
        request.data = BODY if method == "PUT" else b""
        S3SigV4Auth(KEYS, "s3", REGION).add_auth(request)
    prepared = request.prepare()
    split = urlsplit(prepared.url)
    sent = {name: value.decode() if isinstance(value, bytes) else value for name, value in prepared.headers.items()}
    if coding is None and random.random() < 0.7:
        # Not signed: the gateway may ask for what it likes.
        sent["Accept-Encoding"] = "gzip, br"
    if random.random() < 0.3:
        sent["User-Agent"] = "rclone/1.68"
    return method, split.path + (f"?{split.query}" if split.query else ""), sent, coding


def fetch(port, method, target, headers, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    if body and "Content-Length" not in headers:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def ask(port, seed, requests):
    drawn = random.Random(seed)
    counts = {"signed": 0, "compressed": 0, "wrong": 0, "tampered": 0, "merged": 0}
    for number in range(requests):
        method, target, headers, coding = draw(drawn, port, number)
        body = BODY if method == "PUT" else None
        response, content = fetch(port, method, target, headers, body)
        wrong = []
        if response.status not in (200, 206, 304, 412):
            wrong.append(f"status {response.status}")
        arrived = json.loads(response.getheader("x-arrived", "[]"))
        encoding = response.getheader("content-encoding")
        if coding is not None:
            counts["signed"] += 1
            if response.status == 200 and arrived != [coding]:
                wrong.append(f"the store got {arrived}")
            if response.status == 200 and method == "GET" and content != FORMS["gzip" if "gzip" in coding else None]:
                wrong.append(f"{len(content)} bytes of {encoding}")
        elif encoding and method == "GET":
            counts["compressed"] += 1
        if wrong:
            counts["wrong"] += 1
            print(f"{method} {target} {headers}: {', '.join(wrong)}")
        # What others get is none of the forms that this client has asked for.
        plain, content = fetch(port, "GET", f"/cached/plain{number % 7}", {})
        if plain.getheader("content-encoding") or content != TEXT:
            counts["wrong"] += 1
            print(f"a stranger got {plain.status} {plain.getheader('content-encoding')}")
        if coding is not None and "Authorization" in headers:
            # The store sees a change: the control.
            response, _ = fetch(port, method, target, {**headers, "Accept-Encoding": "br, zstd"}, body)
            counts["tampered"] += response.status == 403
            signed = {**headers, "Accept-Encoding": "gzip"}
            if "//" in target:
                # So it does a path that has one slash in place of several.
                response, _ = fetch(port, method, re.sub("//+", "/", target), headers, body)
                counts["merged"] += response.status == 403
            if "cached" in target and method == "GET":
                fetch(port, "GET", f"/cached/plain{drawn.randrange(7)}", signed)
    print(json.dumps(counts))
    return counts["wrong"]


if sys.argv[1] == "serve":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    print(server.server_port, flush=True)
    server.serve_forever()
else:
    sys.exit(ask(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])) > 0)

"""Requests sent to the proxies, and a small client that sends a fixed number of them."""

import dataclasses
import gzip
import pathlib
import re
import socket
import ssl
import subprocess

from .fleet import MeasurementError


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kind of request, the same for every proxy."""

    path: str
    response_bytes: int
    body_bytes: int = 0
    keep_alive: bool = True
    tls: bool = False
    http2: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    # Number of plugin hooks that Edgeway must run for the request.
    hooks: int = 0
    # True if the response must be compressed; `response_bytes` is its length before.
    gzip: bool = False

    @property
    def idles(self) -> bool:
        """True if the memory of idle connections is measured after this workload."""
        return (self.keep_alive and not self.body_bytes and not self.http2
                and self.response_bytes <= 1024)

    @property
    def countable(self) -> bool:
        """True if instructions can be counted: a full handshake has too few requests for it."""
        return self.keep_alive or not self.tls

    @property
    def paceable(self) -> bool:
        """True if the generator of paced requests can send it."""
        return self.keep_alive and not self.body_bytes and not self.headers

    def request(self, port: int) -> bytes:
        """Returns the request as bytes, the same as the load generator's."""
        body = b"x" * self.body_bytes
        method = "POST" if body else "GET"
        host = NAME if self.tls else "127.0.0.1"
        head = f"{method} {self.path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        if body:
            head += f"Content-Length: {len(body)}\r\n"
        if not self.keep_alive:
            head += "Connection: close\r\n"
        return head.encode() + b"\r\n" + body

    def lua(self) -> str | None:
        """Returns the script for the load generator, or None if it needs none."""
        script = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in self.headers)
        if self.body_bytes:
            script += f'wrk.method = "POST"\nwrk.body = string.rep("x", {self.body_bytes})\n'
        return script or None


# Headers that the plugin of `plugin-3h` and similar workloads reads.
BROWSER = (("Accept", "text/html"), ("Accept-Language", "de-CH"), ("Cookie", "plan=gold"))

WORKLOADS = {
    "plain-1k": Workload("/1k", 1024),
    "limit-1k": Workload("/1l", 1024),
    "plain-1k-3h": Workload("/1k", 1024, headers=BROWSER),
    "plugin-3h": Workload("/1p", 1024, headers=BROWSER, hooks=1),
    "plugin-5": Workload("/5p", 1024, headers=BROWSER, hooks=5),
    "plugin-miss": Workload("/1m", 1024, headers=BROWSER),
    "plain-64k": Workload("/64k", 65536),
    # From an origin over TLS; bare Pingora goes to it without.
    "secure-1k": Workload("/s1k", 1024),
    "secure-64k": Workload("/s64k", 65536),
    "cache-1k": Workload("/c1k", 1024),
    "cache-64k": Workload("/c64k", 65536),
    # Files on disk for Edgeway and nginx; bare Pingora has no files and goes to the origin.
    "file-1k": Workload("/f1k", 1024),
    "file-1m": Workload("/f1m", 1048576),
    "gzip-32k": Workload("/j32k", 32768, headers=(("Accept-Encoding", "gzip"),), gzip=True),
    "post-16k": Workload("/post", 1024, body_bytes=16384),
    "conn-1k": Workload("/1k", 1024, keep_alive=False),
    "tls-1k": Workload("/1k", 1024, tls=True),
    "tls-64k": Workload("/64k", 65536, tls=True),
    "h2-1k": Workload("/1k", 1024, tls=True, http2=True),
    "h2-cache-1k": Workload("/c1k", 1024, tls=True, http2=True),
    "h2-64k": Workload("/64k", 65536, tls=True, http2=True),
    "tls-conn-1k": Workload("/1k", 1024, keep_alive=False, tls=True),
}

# Host name in the certificate; the load generator resolves it too.
NAME = "localhost"


def connect(port: int, workload: Workload, cert: pathlib.Path) -> socket.socket:
    """Opens a connection, with TLS 1.3 if the workload uses TLS."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not workload.tls:
        return connection
    context = ssl.create_default_context(cafile=str(cert))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context.wrap_socket(connection, server_hostname=NAME)


def request(port: int, workload: Workload, times: int, cert: pathlib.Path) -> bytes:
    """Sends requests in sequence on one new connection, or on one each; returns the last header
    section."""
    head = b""
    for _ in range(1 if workload.keep_alive else times):
        with connect(port, workload, cert) as connection:
            head = request_on(connection, port, workload, times if workload.keep_alive else 1)
            if not workload.keep_alive and connection.recv(1):
                raise MeasurementError("bytes after a response that ends its connection")
    return head


def request_h2(port: int, workload: Workload, times: int) -> None:
    """Sends requests over HTTP/2 in sequence on one new connection."""
    h2load(["-n", str(times), "-c", "1", "-m", "1"], port, workload)


def h2load(options: list[str], port: int, workload: Workload, seconds: int = 300,
           under: list[str] | None = None) -> int:
    """Runs the load generator for HTTP/2; returns the number of requests, all of which succeeded."""
    command = [*(under or []), "h2load", *options, "-t", "1", "--npn-list=h2",
               f"https://{NAME}:{port}{workload.path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30,
                          check=False)
    found = re.search(r"(\d+) done, (\d+) succeeded", done.stdout)
    if done.returncode or not found or found[1] != found[2] or int(found[1]) == 0:
        raise MeasurementError(f"requests over HTTP/2 failed: {done.stdout}{done.stderr}")
    return int(found[1])


def request_on(connection: socket.socket, port: int, workload: Workload, times: int) -> bytes:
    """As `request`, on an open connection, which stays open."""
    sent = workload.request(port)
    head = b""
    for _ in range(times):
        connection.sendall(sent)
        received = connection.recv(262144)
        while b"\r\n\r\n" not in received:
            more = connection.recv(262144)
            if not more:
                raise MeasurementError(
                    f"connection closed within the response headers: {received[:300]!r}")
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise MeasurementError(f"unexpected response: {head[:300]!r}")
        if workload.gzip:
            check_gzip(connection, head, body, workload)
            continue
        missing = workload.response_bytes - len(body)
        while missing > 0:
            more = connection.recv(262144)
            if not more:
                raise MeasurementError(
                    f"connection closed {missing} bytes before the end of the body")
            missing -= len(more)
        if missing < 0:
            raise MeasurementError(
                f"body {-missing} bytes too long, perhaps chunked: {head[:400]!r}")
    return head


def check_gzip(connection: socket.socket, head: bytes, body: bytes, workload: Workload) -> None:
    """Reads a compressed response to its end, which is chunked, and compares its length."""
    lower = head.lower()
    if b"content-encoding: gzip" not in lower or b"transfer-encoding: chunked" not in lower:
        raise MeasurementError(f"not compressed in chunks: {head[:400]!r}")
    while not body.endswith(b"0\r\n\r\n"):
        more = connection.recv(262144)
        if not more:
            raise MeasurementError("connection closed before the end of the body")
        body += more
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole, body = whole + body[:int(size, 16)], body[int(size, 16) + 2:]
    if len(gzip.decompress(whole)) != workload.response_bytes:
        raise MeasurementError(f"not {workload.response_bytes} bytes: {head[:400]!r}")

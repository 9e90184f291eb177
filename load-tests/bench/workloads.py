"""What is asked of the proxies, and the small client that asks a fixed number of times."""

import dataclasses
import pathlib
import socket
import ssl

from .fleet import Trouble


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kind of request, the same for every proxy."""

    path: str
    answer_bytes: int
    body_bytes: int = 0
    keep_alive: bool = True
    tls: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    # How many hooks of plugins Edgeway has to run for it.
    hooks: int = 0

    @property
    def idles(self) -> bool:
        """Whether idle connections after it tell something that another one does not."""
        return self.keep_alive and not self.body_bytes and self.answer_bytes <= 1024

    @property
    def countable(self) -> bool:
        """Whether instructions can be counted on one connection."""
        return self.keep_alive

    def request(self, port: int) -> bytes:
        """The request as bytes, the same as the load generator's."""
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
        """The load generator's script, where one is needed."""
        script = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in self.headers)
        if self.body_bytes:
            script += f'wrk.method = "POST"\nwrk.body = string.rep("x", {self.body_bytes})\n'
        return script or None


# What the plugins of `plugin-3h` and its like read.
BROWSER = (("Accept", "text/html"), ("Accept-Language", "de-CH"), ("Cookie", "plan=gold"))

WORKLOADS = {
    "plain-1k": Workload("/1k", 1024),
    "limit-1k": Workload("/1l", 1024),
    "plain-1k-3h": Workload("/1k", 1024, headers=BROWSER),
    "plugin-3h": Workload("/1p", 1024, headers=BROWSER, hooks=1),
    "plugin-5": Workload("/5p", 1024, headers=BROWSER, hooks=5),
    "plugin-miss": Workload("/1m", 1024, headers=BROWSER),
    "plain-64k": Workload("/64k", 65536),
    "cache-1k": Workload("/c1k", 1024),
    "cache-64k": Workload("/c64k", 65536),
    "post-16k": Workload("/post", 1024, body_bytes=16384),
    "conn-1k": Workload("/1k", 1024, keep_alive=False),
    "tls-1k": Workload("/1k", 1024, tls=True),
    "tls-64k": Workload("/64k", 65536, tls=True),
    "tls-conn-1k": Workload("/1k", 1024, keep_alive=False, tls=True),
}

# The name in the certificate, which the load generator looks up as well.
NAME = "localhost"


def connect(port: int, workload: Workload, cert: pathlib.Path) -> socket.socket:
    """A connection, with TLS 1.3 where the workload wants TLS."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not workload.tls:
        return connection
    context = ssl.create_default_context(cafile=str(cert))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context.wrap_socket(connection, server_hostname=NAME)


def ask(port: int, workload: Workload, times: int, cert: pathlib.Path) -> bytes:
    """Asks one after the other on one connection; the head of the last answer."""
    with connect(port, workload, cert) as connection:
        return ask_on(connection, port, workload, times)


def ask_on(connection: socket.socket, port: int, workload: Workload, times: int) -> bytes:
    """As `ask`, on a connection that is there and stays."""
    request = workload.request(port)
    head = b""
    for _ in range(times):
        connection.sendall(request)
        answer = connection.recv(262144)
        while b"\r\n\r\n" not in answer:
            more = connection.recv(262144)
            if not more:
                raise Trouble(f"connection closed in the head of an answer: {answer[:300]!r}")
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise Trouble(f"not the answer that was expected: {head[:300]!r}")
        missing = workload.answer_bytes - len(body)
        while missing > 0:
            more = connection.recv(262144)
            if not more:
                raise Trouble(f"connection closed {missing} bytes before the end of a body")
            missing -= len(more)
        if missing < 0:
            raise Trouble(f"body is {-missing} bytes too long; is it chunked? {head[:400]!r}")
    return head

"""Requests of a profile: h2load processes, and the log of each of their requests.

h2load writes the start, status and duration of each request. With a rate, each of its clients
keeps its own schedule and makes up for delays, so the number of requests does not depend on how
fast responses are. The logged duration begins when a request is sent, not when it was due, which
`evaluate.corrected_ms` adds.
"""

import array
import dataclasses
import pathlib
import random
import signal
import subprocess
import time

from bench.fleet import Fleet, MeasurementError

from . import evaluate


@dataclasses.dataclass
class Part:
    """One kind of traffic: some clients that send requests at a rate, or as fast as they can.

    A closed loop has a number of requests and no time: with a time, h2load counts neither the
    requests that a client lost with its connection, nor those that it did not send afterwards.
    """

    name: str
    paths: list[str]
    seconds: float
    # Requests per second of all clients; None is a closed loop: each client sends its next
    # request when the response to the last one is complete.
    rate: float | None = None
    # Requests of a closed loop, which may take up to `seconds`.
    total: int | None = None
    clients: int = 1
    # HTTP/2 over TLS, which lets one client have many requests in flight; else HTTP/1.1.
    h2: bool = False
    headers: tuple[str, ...] = ()
    body: bytes | None = None
    # Seconds after the beginning of the run.
    start: float = 0.0
    # Statuses beside 200 to 399 that are not errors.
    expected: tuple[int, ...] = ()
    # False for traffic whose latency is of no interest, such as a flood's.
    judged: bool = True
    # Port of an origin: the requests go there by HTTP/1.1, not to the gateway.
    origin: int | None = None

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.total is None):
            raise ValueError(f"{self.name}: a part has either a rate or a total")

    def count(self) -> int:
        """Returns the number of requests: at a rate the same for each client, at least one."""
        if self.total is not None:
            return self.total
        return max(round(self.rate * self.seconds / self.clients), 1) * self.clients

    def is_error(self, status: int) -> bool:
        return not 200 <= status < 400 and status not in self.expected


class Rows:
    """Requests as rows of start in seconds, corrected and logged latency in ms, and status.

    Arrays, because a soak has millions of them.
    """

    def __init__(self) -> None:
        self._columns = (array.array("d"), array.array("f"), array.array("f"), array.array("h"))

    def append(self, *row: float) -> None:
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)

    def extend(self, rows: "Rows", later: float = 0.0) -> None:
        """Adds other rows, whose starts are moved by some seconds."""
        for start, *rest in rows:
            self.append(start + later, *rest)

    def __iter__(self):
        return zip(*self._columns)

    def __len__(self) -> int:
        return len(self._columns[0])


class Running:
    """A running h2load, and the part of its log that has been read."""

    def __init__(self, fleet: Fleet, part: Part, ports: tuple[int, int], cpus: set[int],
                 number: int) -> None:
        self.part = part
        self.fleet = fleet
        self.log = fleet.folder / f"requests-{number}.tsv"
        self.log.touch()
        self.output = f"h2load-{number}"
        self.starts = array.array("d")
        self.latencies = array.array("f")
        self.statuses = array.array("h")
        self._read = 0
        self._rest = b""
        self.process = fleet.start(self._command(ports, number), cpus, log=self.output)
        # Connections, the last responses and a busy machine get more time.
        begin = part.clients / part.rate if part.rate else 0
        self.deadline = time.monotonic() + part.seconds + begin + 30

    def _begins(self) -> tuple[int, int]:
        """Returns how many clients begin together, and how many ms lie between two such groups.

        All of them begin within the time between two requests of one, so that no two coincide.
        """
        apart = 1000 / self.part.rate
        return (1, max(int(apart), 1)) if apart >= 5 else (round(10 / apart), 10)

    def _command(self, ports: tuple[int, int], number: int) -> list[str]:
        part = self.part
        plain, tls = ports
        base = (f"https://localhost:{tls}" if part.h2
                else f"http://127.0.0.1:{part.origin or plain}")
        uris = self.fleet.folder / f"uris-{number}.txt"
        uris.write_text("".join(f"{base}{path}\n" for path in part.paths))
        command = ["h2load", "-t1", f"-c{part.clients}", "-i", str(uris),
                   "--log-file", str(self.log)]
        command += ["-m500"] if part.h2 else ["--h1"]
        for header in part.headers:
            command += ["-H", header]
        if part.body is not None:
            body = self.fleet.folder / f"body-{number}"
            body.write_bytes(part.body)
            command += ["-d", str(body)]
        if part.total is not None:
            return [*command, f"-n{part.total}"]
        command += [f"-n{part.count()}", f"--rps={part.rate / part.clients:.6f}"]
        if part.clients > 1:
            together, gap = self._begins()
            command += [f"-r{together}", f"--rate-period={gap}ms"]
        return command

    def read(self) -> int:
        """Reads what was added to the log; returns the number of requests."""
        with open(self.log, "rb") as log:
            log.seek(self._read)
            added = log.read()
        self._read += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            start, status, micros = line.split(b"\t")[:3]
            self.starts.append(int(start) / 1e6)
            self.statuses.append(int(status))
            self.latencies.append(int(micros) / 1000)
        return len(lines)

    def is_running(self) -> bool:
        if self.process.poll() is not None:
            return False
        if time.monotonic() > self.deadline:
            self.fleet.stop(self.process, signal.SIGKILL, wait=0)
            return False
        return True

    def rows(self, epoch: float) -> "Rows":
        """Returns the requests by time of start, in seconds after `epoch`."""
        order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
        starts = [self.starts[index] for index in order]
        part = self.part
        if part.rate is None:
            late = [0.0] * len(starts)
        else:
            together, gap = self._begins()
            due = evaluate.schedule(part.clients, part.count() // part.clients, part.rate,
                                    together, gap / 1000)
            late = evaluate.lateness_ms(starts, due)
        rows = Rows()
        for place, index in enumerate(order):
            logged = self.latencies[index]
            rows.append(starts[place] - epoch, evaluate.corrected_ms(logged, late[place]), logged,
                        self.statuses[index])
        return rows

    def missing(self) -> int:
        """Returns the number of requests that never got as far as a line in the log."""
        return self.part.count() - len(self.starts)


def zipf(draw: random.Random, count: int, exponent: float, length: int) -> list[int]:
    """Returns `length` numbers from 0 to `count` - 1, of which the low ones are popular."""
    weights = [1 / (rank ** exponent) for rank in range(1, count + 1)]
    return draw.choices(range(count), weights, k=length)


def require(*tools: str) -> None:
    """Raises an error that names the Debian packages of the missing tools."""
    import shutil
    packages = {"h2load": "nghttp2-client", "redis-server": "redis-server", "node": "nodejs",
                "openssl": "openssl"}
    missing = [packages[tool] for tool in tools if not shutil.which(tool)]
    if missing:
        raise MeasurementError(f"missing tools; on Debian: apt install {' '.join(missing)}")


def run(command: list[str], seconds: float, cpus: set[int] | None = None) -> tuple[int, str]:
    """Runs a command to its end; returns its status and output."""
    prefix = ["taskset", "-c", ",".join(map(str, sorted(cpus)))] if cpus else []
    try:
        done = subprocess.run([*prefix, *command], capture_output=True, text=True,
                              timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return 124, f"{pathlib.Path(command[0]).name} took longer than {seconds:.0f} s"
    return done.returncode, done.stdout + done.stderr

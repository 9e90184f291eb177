"""The gateway, its origins and Redis, and samples of them while requests are sent."""

import base64
import dataclasses
import json
import os
import pathlib
import resource
import socket
import ssl
import sys
import threading
import time
import urllib.request

from bench.fleet import Fleet, MeasurementError, cpu_between, cpu_time, free_ports, tree
from bench.measure import resident
from bench.proxies import output

from . import evaluate
from .generator import Part, Rows, Running, run

HERE = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Options:
    """Command line options that every profile sees."""

    edgeway: pathlib.Path
    scale: float
    minutes: float | None
    control: str

    def seconds(self, usual: float) -> float:
        """Returns the length of a profile's main part."""
        return max(self.minutes * 60 if self.minutes else usual, 2.0)

    def rate(self, usual: float) -> float:
        return max(usual * self.scale, 1.0)

    def count(self, usual: int) -> int:
        return max(round(usual * self.scale), 1)


class Progress:
    """One line that is rewritten on a terminal, otherwise a line every 10 s."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_terminal = sys.stderr.isatty()
        self.last = -10.0

    def show(self, at: float, text: str) -> None:
        if self.is_terminal:
            print(f"\r\x1b[K{self.name} {text}", end="", file=sys.stderr, flush=True)
        elif at - self.last >= 10:
            self.last = at
            print(f"{self.name} {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@dataclasses.dataclass
class Taken:
    """Everything that one run measured; times are seconds from its beginning."""

    seconds: float
    # By part.
    rows: dict[str, Rows]
    errors: dict[str, int]
    # Time, resident MiB, resident MiB without the cache's memory.
    memory: list[tuple[float, float, float]]
    cpu_seconds: float
    foreign_percent: float
    parts: list[Part]
    # Greatest number of connections of clients at once.
    connected: float

    def latencies(self, *names: str, since: float = 0, until: float = 1e9) -> list[float]:
        chosen = names or [part.name for part in self.parts if part.judged]
        return [row[1] for name in chosen for row in self.rows[name] if since <= row[0] < until]

    def logged(self) -> list[float]:
        return [row[2] for part in self.parts if part.judged for row in self.rows[part.name]]

    def through_gateway(self) -> set[str]:
        return {part.name for part in self.parts if part.origin is None}

    def requests(self, *names: str) -> int:
        return sum(len(self.rows[name]) for name in names or self.through_gateway())

    def failed(self, *names: str) -> int:
        return sum(self.errors[name] for name in names or self.errors)

    def per_second(self, *names: str) -> float:
        """Returns requests per second, without the seconds in which clients begin and end."""
        chosen = names or self.through_gateway()
        return evaluate.rate([row[0] for name in chosen for row in self.rows[name]])

    def statuses(self, name: str) -> dict[int, int]:
        found: dict[int, int] = {}
        for row in self.rows[name]:
            found[row[3]] = found.get(row[3], 0) + 1
        return found

    def cpu_percent(self) -> float:
        """Returns the gateway's CPU time as per cent of one core."""
        return self.cpu_seconds / self.seconds * 100

    def series(self, most: int = 300) -> dict:
        """Returns what the plot shows, in at most `most` steps of whole seconds."""
        step = max(round(self.seconds / most), 1)
        count = max(int(self.seconds // step), 1)
        latency: list[list[float]] = [[] for _ in range(count)]
        rate, errors = [0] * count, [0] * count
        for part in self.parts:
            if part.origin is not None:
                continue
            for start, fixed, _, status in self.rows[part.name]:
                place = int(start // step)
                if 0 <= place < count:
                    rate[place] += 1
                    errors[place] += part.is_error(status)
                    if part.judged:
                        latency[place].append(fixed)
        memory: list[list[float]] = [[] for _ in range(count)]
        for at, mib, _ in self.memory:
            if 0 <= at // step < count:
                memory[int(at // step)].append(mib)

        def share(values: list[float], of: float) -> float | None:
            return None if not values else round(evaluate.percentile(values, of), 2)

        return {"t": [place * step for place in range(count)],
                "p50": [share(each, 0.5) for each in latency],
                "p95": [share(each, 0.95) for each in latency],
                "rate": [round(each / step, 1) for each in rate], "errors": errors,
                "rss": [round(sum(each) / len(each), 1) if each else None for each in memory]}


class Stage:
    """Processes of one profile: start them with `open`, send requests with `run`."""

    def __init__(self, fleet: Fleet, options: Options, name: str) -> None:
        self.fleet = fleet
        self.options = options
        self.name = name
        cpus = sorted(os.sched_getaffinity(0))
        half = (len(cpus) + 1) // 2
        # The gateway has half of the CPUs for itself; everything else shares the others.
        self.others, self.own = set(cpus[:half]), set(cpus[half:])
        os.sched_setaffinity(0, self.others)
        self.port, self.tls_port, self.admin, self.redis_port = free_ports(4)
        self.origins: list = []
        self.origin_ports: list[int] = []
        self.parts_started = 0

    def open(self, cache: str = "64MiB", origins: int = 1,
             env: dict[str, str] | None = None, upstream: str = "") -> None:
        """Starts everything; returns when the gateway accepts connections.

        `upstream` is one more option of the upstream.
        """
        folder = self.fleet.folder
        output(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost", "-out", str(folder / "site.pem"),
                "-keyout", str(folder / "site.key")])
        (folder / "redis-secret").write_bytes(base64.b64encode(os.urandom(32)))
        (folder / "redis-secret").chmod(0o600)
        self.origin_env = {"CONTROL": self.options.control, **(env or {})}
        for _ in range(origins):
            self.add_origin()
        text = (HERE / "gateway.yaml").read_text()
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        values = {"PORT": self.port, "TLS_PORT": self.tls_port, "ADMIN": self.admin,
                  "REDIS": self.redis_port, "FOLDER": folder, "CACHE": cache,
                  "UPSTREAM": upstream,
                  "CONNECTIONS": max(files * 3 // 4, 100),
                  "BACKENDS": ", ".join(f'"127.0.0.1:{port}"' for port in self.origin_ports)}
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        self.config = folder / "edgeway.yaml"
        self.config.write_text(text)
        redis = self.fleet.start(
            ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1",
             "--save", "", "--appendonly", "no"], self.others, log="redis")
        self.fleet.wait_for(redis, self.redis_port, "redis", 15)
        self.gateway = self.fleet.start(
            [str(self.options.edgeway.resolve()), "run", "-c", str(self.config),
             "--threads", str(len(self.own))], self.own,
            {"XDG_STATE_HOME": str(folder / "state")}, log="edgeway")
        for port in (self.port, self.tls_port):
            self.fleet.wait_for(self.gateway, port, "edgeway", 60)
        # What is stored before the link for purges is up may have missed one, and is dropped.
        deadline = time.monotonic() + 15
        while self.metrics().get("edgeway_cache_purge_link_up") != 1:
            if time.monotonic() > deadline:
                raise MeasurementError("the gateway has no link for purges after 15 s:\n"
                                       f"{self.fleet.tail('edgeway')}")
            time.sleep(0.05)

    def add_origin(self) -> int:
        """Starts one more origin; returns its port."""
        (port,) = free_ports(1)
        process = self.fleet.start(["node", str(HERE / "origin.js"), str(port)], self.others,
                                   self.origin_env, log=f"origin-{port}")
        self.fleet.wait_for(process, port, f"origin-{port}", 30)
        self.origins.append(process)
        self.origin_ports.append(port)
        return port

    def metrics(self) -> dict[str, float]:
        """Returns each series of the gateway's metrics, with its labels as in the text."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
                for line in lines if line and not line.startswith("#")}

    def total(self, metrics: dict[str, float], name: str) -> float:
        """Returns the sum of a metric's series, of which there must be one."""
        found = [value for series, value in metrics.items() if series.partition("{")[0] == name]
        if not found:
            raise MeasurementError(f"the gateway has no metric `{name}`")
        return sum(found)

    def cache_results(self) -> dict[str, float]:
        """Returns the number of requests by what the cache did, over all routes."""
        found: dict[str, float] = {}
        for series, value in self.metrics().items():
            if series.startswith("edgeway_cache_requests_total{"):
                result = series.partition('result="')[2].partition('"')[0]
                found[result] = found.get(result, 0) + value
        return found

    def origin_stats(self) -> dict[str, int]:
        """Returns the counts of all origins together."""
        total: dict[str, int] = {}
        for port in self.origin_ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=30) as page:
                for key, value in json.load(page).items():
                    total[key] = total.get(key, 0) + value
        return total

    def command(self, *words: str, seconds: float = 60) -> None:
        """Runs a command of Edgeway; raises an error if it fails."""
        status, text = run([str(self.options.edgeway.resolve()), *words], seconds, self.others)
        if status:
            raise MeasurementError(f"edgeway {' '.join(words[:3])} exited with status {status}: "
                                   f"{text.strip()[-600:]}")

    def warm(self, paths: list[str]) -> None:
        """Fetches paths over both listeners, so that the cache has them."""
        listing = self.fleet.folder / "warm.txt"
        listing.write_text("".join(f"{path}\n" for path in dict.fromkeys(paths)))
        # Scheme and host are parts of the cache key.
        for base in (f"http://127.0.0.1:{self.port}", f"https://localhost:{self.tls_port}"):
            self.command("warm", str(listing), "--base", base, "--insecure",
                         "--encoding", "identity", "--concurrency", "16", seconds=300)

    def run(self, parts: list[Part], at: dict[float, object] | None = None,
            beside: object = None) -> Taken:
        """Sends the parts' requests; calls the functions of `at` at their times, in a thread.

        `beside` is called each second: the negative controls use it.
        """
        progress = Progress(self.name)
        waiting = sorted(parts, key=lambda part: part.start)
        calls = sorted((at or {}).items())
        failures: list[BaseException] = []
        threads: list[threading.Thread] = []
        running: list[Running] = []
        memory: list[tuple[float, float, float]] = []
        known = [*self.origins, self.gateway]
        pids = [pid for process in known for pid in tree(process.pid)]
        gateway_pids = tree(self.gateway.pid)
        foreign_before = _foreign(pids)
        cpu_before = cpu_time(gateway_pids)
        wall, begin = time.time(), time.monotonic()
        # A fixed number of requests has no known length.
        length = "" if any(part.total for part in parts) else "/{:.0f}".format(
            max(part.start + part.seconds for part in parts))
        tick, seen, connected = 0.0, 0, 0.0

        def guarded(call) -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - reported by the main thread
                failures.append(error)

        while waiting or running_now(running) or any(each.is_alive() for each in threads):
            now = time.monotonic() - begin
            while waiting and waiting[0].start <= now:
                self.parts_started += 1
                running.append(Running(self.fleet, waiting.pop(0), (self.port, self.tls_port),
                                       self.others, self.parts_started))
            while calls and calls[0][0] <= now:
                call = calls.pop(0)[1]
                threads.append(threading.Thread(target=guarded, args=(call,), daemon=True))
                threads[-1].start()
            if self.gateway.poll() is not None:
                raise MeasurementError("the gateway exited during the run:\n"
                                       f"{self.fleet.tail('edgeway')}")
            if failures:
                raise MeasurementError(f"{self.name}: {failures[0]}")
            if now >= tick:
                tick += 1.0
                mib = resident(gateway_pids) / 1048576
                metrics = self.metrics()
                stored = self.total(metrics, "edgeway_cache_bytes") / 1048576
                memory.append((now, mib, mib - stored))
                connected = max(connected, self.total(metrics, "edgeway_connections"))
                added = sum(each.read() for each in running)
                seen += added
                failed = sum(each.part.is_error(status) for each in running
                             for status in each.statuses[-200:])
                progress.show(now, f"{now:5.0f}{length} s  {seen:,} requests  "
                              f"{mib:.1f} MiB" + ("  errors!" if failed else ""))
                if callable(beside):
                    beside()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        if failures:
            raise MeasurementError(f"{self.name}: {failures[0]}")
        took = time.monotonic() - begin
        spent = cpu_between(cpu_before, cpu_time(gateway_pids)) / 1e9
        foreign = (_foreign(pids) - foreign_before) / took / os.cpu_count() * 100
        progress.end()
        rows, errors, parts = self._rows(running, wall)
        return Taken(took, rows, errors, memory, spent, max(foreign, 0.0), parts, connected)

    @staticmethod
    def _rows(running: list[Running],
              wall: float) -> tuple[dict[str, Rows], dict[str, int], list[Part]]:
        """Returns the requests and the number of errors by part, and the parts."""
        rows: dict[str, Rows] = {}
        errors: dict[str, int] = {}
        parts: dict[str, Part] = {}
        for each in running:
            each.read()
            name = each.part.name
            # Parts of the same name are joined: several clients of one kind.
            parts.setdefault(name, each.part)
            found = each.rows(wall)
            rows.setdefault(name, Rows()).extend(found)
            bad = sum(each.part.is_error(row[3]) for row in found) + each.missing()
            errors[name] = errors.get(name, 0) + bad
            each.log.unlink()
        if not any(rows.values()):
            first = running[0]
            raise MeasurementError("no request was sent:\n" + first.fleet.tail(first.output))
        return rows, errors, list(parts.values())

    def hold_connections(self, count: int, tls: bool = False) -> list[socket.socket]:
        """Opens connections, sends one request on each, and leaves them open."""
        context = ssl.create_default_context(cafile=str(self.fleet.folder / "site.pem"))
        held: list[socket.socket] = []
        for _ in range(count):
            port = self.tls_port if tls else self.port
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            if tls:
                connection = context.wrap_socket(connection, server_hostname="localhost")
            connection.sendall(b"GET /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = connection.recv(65536)
            if not response.startswith(b"HTTP/1.1 200"):
                raise MeasurementError("unexpected response on a connection that was to be left "
                                       f"open: {response[:60]!r}")
            held.append(connection)
        return held


def running_now(running: list[Running]) -> bool:
    return any([each.is_running() for each in running])


def memory_beside_cache(taken: Taken) -> float | None:
    """Returns the greatest resident MiB without the cache's memory."""
    return max((each[2] for each in taken.memory), default=None)


def _foreign(pids: list[int]) -> float:
    """Returns CPU seconds since boot of all but this process, its ended children and `pids`."""
    fields = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _wait, irq, soft = (int(field) for field in fields[1:8])
    used = (user + nice + system + irq + soft) / TICKS
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        spent = resource.getrusage(who)
        used -= spent.ru_utime + spent.ru_stime
    return used - cpu_time(pids)[1] / 1e9

"""Measurements: CPU time, instructions and system calls per request, memory per connection."""

import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

from .fleet import (
    ORIGIN_CPU, PROXY_CPU, Fleet, MeasurementError, busy, cpu_between, cpu_time, tree)
from .proxies import Proxy
from .workloads import NAME, Workload, connect, h2load, request, request_h2, request_on

# Debian package of each tool.
TOOLS = {"nginx": "nginx-light", "wrk": "wrk", "valgrind": "valgrind", "strace": "strace",
         "h2load": "nghttp2-client", "haproxy": "haproxy"}


def require_tools(figures: list[str], proxies: list[str], uses_http2: bool) -> None:
    """Raises an error if a tool is missing; without strace, only skips the system calls."""
    wanted = ["nginx", "h2load"] if uses_http2 else ["nginx"]
    if "haproxy" in proxies:
        wanted.append("haproxy")
    if "latency" in figures and "h2load" not in wanted:
        wanted.append("h2load")
    if {"cpu", "syscalls", "latency"} & set(figures):
        wanted.append("wrk")
    if "instructions" in figures:
        wanted.append("valgrind")
    if "syscalls" in figures and not shutil.which("strace"):
        if figures == ["syscalls"]:
            wanted.append("strace")
        else:
            figures.remove("syscalls")
            say("strace is missing: system calls are not counted")
    missing = [TOOLS[tool] for tool in wanted if not shutil.which(tool)]
    if missing:
        raise MeasurementError(f"missing tools; on Debian: apt install {' '.join(missing)}")
    if not proxies:
        raise MeasurementError("no proxy to measure: name one with --proxies")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load(fleet: Fleet, proxy: Proxy, workload: Workload, seconds: int, connections: int) -> dict:
    """Puts load on a proxy; returns the results, and raises an error if any request failed."""
    if workload.http2:
        return load_h2(proxy, workload, seconds, connections)
    command = ["taskset", "-c", str(ORIGIN_CPU), "wrk", "-t1", f"-c{connections}",
               f"-d{seconds}s", "--timeout", "10s", "--latency"]
    script = workload.lua()
    if script:
        path = fleet.folder / "request.lua"
        path.write_text(script)
        command += ["-s", str(path)]
    if not workload.keep_alive:
        command += ["-H", "Connection: close"]
    command.append(f"{'https' if workload.tls else 'http'}://{NAME if workload.tls else '127.0.0.1'}"
                   f":{proxy.port_for(workload)}{workload.path}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30,
                          check=False)
    found = re.search(r"(\d+) requests in", done.stdout)
    if done.returncode or not found or int(found[1]) == 0:
        raise MeasurementError(f"wrk made no requests to {proxy.name}: {done.stdout}{done.stderr}")
    for bad in ("Non-2xx", "Socket errors"):
        line = next((line for line in done.stdout.splitlines() if bad in line), None)
        # wrk counts the close that it requested as a read error.
        if line and not (bad == "Socket errors" and not workload.keep_alive):
            raise MeasurementError(f"{proxy.name}, {workload.path}: {line.strip()}")
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", done.stdout)
    scale = {"us": 0.001, "ms": 1.0, "s": 1000.0}
    return {"requests": int(found[1]),
            "p99_ms": round(float(p99[1]) * scale[p99[2]], 3) if p99 else None}


def load_h2(proxy: Proxy, workload: Workload, seconds: int, connections: int) -> dict:
    """As `load`, over HTTP/2 with one request at a time on each connection."""
    options = ["-D", str(seconds), "-c", str(connections), "-m", "1"]
    count = h2load(options, proxy.port_for(workload), workload, seconds,
                   under=["taskset", "-c", str(ORIGIN_CPU)])
    return {"requests": count, "p99_ms": None}


def cpu(fleet: Fleet, proxies: list[Proxy], workload: Workload, args, taken: dict) -> None:
    """Measures CPU time per request of each proxy's process tree; proxies take turns in rounds."""
    for proxy in proxies:
        taken[proxy.name]["cpu_us"] = []
        taken[proxy.name]["requests_per_second"] = []
        taken[proxy.name]["p99_ms"] = []
        taken[proxy.name]["foreign_percent"] = []
    try:
        for proxy in proxies:
            proxy.start()
            proxy.verify(workload)
            load(fleet, proxy, workload, 1, args.connections)
        for round_number in range(args.rounds):
            # Each round begins with a different proxy, so that none is always first.
            shift = round_number % len(proxies)
            for proxy in proxies[shift:] + proxies[:shift]:
                pids = tree(proxy.process.pid)
                machine, before, begin = busy(PROXY_CPU), cpu_time(pids), time.monotonic()
                seen = load(fleet, proxy, workload, args.seconds, args.connections)
                spent, took = cpu_between(before, cpu_time(pids)), time.monotonic() - begin
                foreign = (busy(PROXY_CPU) - machine - spent) / took / 1e7
                figures = taken[proxy.name]
                figures["cpu_us"].append(round(spent / seen["requests"] / 1000, 3))
                figures["requests_per_second"].append(round(seen["requests"] / args.seconds))
                figures["p99_ms"].append(seen["p99_ms"])
                figures["foreign_percent"].append(round(max(foreign, 0.0), 1))
            say("round {}: {}".format(round_number + 1, ", ".join(
                f"{proxy.name} {taken[proxy.name]['cpu_us'][-1]:.1f} µs" for proxy in proxies)))
    finally:
        for proxy in proxies:
            proxy.stop()


def instructions(fleet: Fleet, proxies: list[Proxy], workload: Workload, args,
                 taken: dict) -> None:
    """Measures user-space instructions per request: the difference of a long and a short run.

    Repeated, because timers and wake-ups depend on the speed of the machine.
    """
    few, many = args.requests // 4, args.requests
    for proxy in proxies:
        taken[proxy.name]["instructions"] = []
    for _ in range(args.repeats):
        for proxy in proxies:
            short, long = (_count(fleet, proxy, workload, times, args.profiles)
                           for times in (few, many))
            each = round((long - short) / (many - few))
            taken[proxy.name]["instructions"].append(each)
            say(f"{proxy.name}: {each:,} instructions")


def _count(fleet: Fleet, proxy: Proxy, workload: Workload, times: int, keep) -> int:
    out = fleet.folder / f"callgrind-{proxy.name}-{times}"
    try:
        proxy.start(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"])
        # Both runs fill the connection pool and initialize lazy statics.
        port, cert = proxy.port_for(workload), proxy.settings.cert
        for count in (50, times):
            if workload.http2:
                request_h2(port, workload, count)
            else:
                request(port, workload, count, cert)
    finally:
        proxy.stop()
    if not out.exists():
        raise MeasurementError(
            f"valgrind wrote no file for {proxy.name}:\n{fleet.tail(proxy.name)}")
    text = out.read_text(errors="replace")
    # A dump can have several parts, each with a summary.
    parts = re.findall(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
    if not parts:
        raise MeasurementError(f"no summary in {out.name}:\n{fleet.tail(proxy.name)}")
    if keep:
        kind = "h2-" if workload.http2 else "tls-" if workload.tls else ""
        requests = f"{kind}{workload.path.strip('/')}-{times}"
        shutil.copy(out, keep / f"{proxy.name}-{requests}.callgrind")
    return int(parts[-1])


# Number of idle connections for which memory is measured.
IDLE = 1000


def idle(fleet: Fleet, proxies: list[Proxy], workload: Workload, taken: dict) -> None:
    """Measures resident memory per idle connection, after one request on each."""
    low, high = resource.getrlimit(resource.RLIMIT_NOFILE)
    if low < 2 * IDLE:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(high, 4 * IDLE), high))
    for proxy in proxies:
        connections = []
        try:
            proxy.start()
            port, cert = proxy.port_for(workload), proxy.settings.cert
            request(port, workload, 200, cert)
            before = resident(tree(proxy.process.pid))
            for _ in range(IDLE):
                connection = connect(port, workload, cert)
                connections.append(connection)
                request_on(connection, port, workload, 1)
            after = resident(tree(proxy.process.pid))
        finally:
            for connection in connections:
                connection.close()
            proxy.stop()
        taken[proxy.name]["idle_kib"] = round((after - before) / IDLE / 1024, 1)
        say(f"{proxy.name}: {taken[proxy.name]['idle_kib']} KiB per idle connection")


def resident(pids: list[int]) -> int:
    """Returns the resident bytes of processes; shared pages count once for each process."""
    pages = sum(int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize()


def syscalls(fleet: Fleet, proxies: list[Proxy], workload: Workload, args, taken: dict) -> None:
    """Measures system calls per request under load, by name; those below 0.02 are left out."""
    for proxy in proxies:
        try:
            proxy.start()
            proxy.verify(workload)
            load(fleet, proxy, workload, 1, args.connections)
            out = fleet.folder / f"strace-{proxy.name}"
            attach = [each for pid in tree(proxy.process.pid) for each in ("-p", str(pid))]
            tracer = fleet.start(["strace", "-f", "-c", "-U", "calls,name", "-o", str(out),
                                  *attach], ORIGIN_CPU, log="strace")
            time.sleep(0.5)
            if tracer.poll() is not None:
                say(f"strace cannot attach: system calls are not counted: {fleet.tail('strace')}")
                return
            seen = load(fleet, proxy, workload, 2, args.connections)
            fleet.stop(tracer, signal.SIGINT)
        finally:
            proxy.stop()
        calls = {name: int(count) for count, name in
                 re.findall(r"^\s*(\d+)\s+(\w+)\s*$", out.read_text(), re.MULTILINE)
                 if name != "total"}
        each = {name: round(count / seen["requests"], 2) for name, count in calls.items()}
        taken[proxy.name]["syscalls"] = round(sum(calls.values()) / seen["requests"], 2)
        taken[proxy.name]["syscalls_by_name"] = {
            name: count for name, count in sorted(each.items(), key=lambda item: -item[1])
            if count >= 0.02}

"""Latency of requests that arrive at a rate below what a proxy can do."""

import math
import pathlib
import subprocess

from .fleet import ORIGIN_CPU, Fleet, MeasurementError
from .measure import load, say
from .proxies import Proxy
from .workloads import NAME, Workload

SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def latency(fleet: Fleet, proxies: list[Proxy], workload: Workload, args, taken: dict) -> int:
    """Measures latency at half of what the slowest proxy can do; returns that rate.

    All proxies get the same rate, and take turns in rounds. The generator logs each request from
    the moment in which it is sent.
    """
    try:
        capacities = []
        for proxy in proxies:
            proxy.start()
            proxy.verify(workload)
            capacities.append(load(fleet, proxy, workload, 2, args.connections)["requests"] / 2)
        rate = round(min(capacities) / 2)
        for proxy in proxies:
            taken[proxy.name]["latency_us"] = {share: [] for share in SHARES}
        for round_number in range(args.rounds):
            shift = round_number % len(proxies)
            for proxy in proxies[shift:] + proxies[:shift]:
                found = _paced(fleet, proxy, workload, rate, args)
                for share, at in SHARES.items():
                    place = max(math.ceil(at * len(found)), 1) - 1
                    taken[proxy.name]["latency_us"][share].append(found[place])
            say("round {} at {:,}/s: {}".format(round_number + 1, rate, ", ".join(
                f"{proxy.name} p99 {taken[proxy.name]['latency_us']['p99'][-1]:,} µs"
                for proxy in proxies)))
        return rate
    finally:
        for proxy in proxies:
            proxy.stop()


def _paced(fleet: Fleet, proxy: Proxy, workload: Workload, rate: int, args) -> list[int]:
    """Sends requests at a rate; returns their durations in µs, in ascending order."""
    log = pathlib.Path(fleet.folder) / "latency.tsv"
    log.unlink(missing_ok=True)
    count = rate * args.seconds // args.connections * args.connections
    scheme, host = ("https", NAME) if workload.tls else ("http", "127.0.0.1")
    command = ["taskset", "-c", str(ORIGIN_CPU), "h2load", "-t1", f"-c{args.connections}",
               f"-n{count}", f"--rps={rate / args.connections:.6f}", f"--log-file={log}",
               *(["-m1"] if workload.http2 else ["--h1"]),
               f"{scheme}://{host}:{proxy.port_for(workload)}{workload.path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=args.seconds + 60,
                          check=False)
    rows = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    if done.returncode or len(rows) != count or any(row[1] != "200" for row in rows):
        raise MeasurementError(f"{proxy.name}: {len(rows)} of {count} requests had a response, "
                               f"or not all were 200: {done.stdout[-600:]}{done.stderr[-600:]}")
    return sorted(int(row[2]) for row in rows)

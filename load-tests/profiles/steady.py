"""Profiles with the same traffic from begin to end: api, portal, mix, zipf, shop, steps, idle."""

import dataclasses
import os
import random
import resource

from bench.measure import resident
from bench.fleet import tree

from . import evaluate
from .evaluate import Bound, mean, percentile
from .generator import Part, Rows, zipf
from .stage import Stage, Taken, memory_beside_cache

# Cores of the machine to which S-110 and S-111 refer.
REFERENCE_CORES = 8
# Descriptors of a gateway that are not connections of clients.
RESERVED_FILES = 1500


@dataclasses.dataclass
class Outcome:
    """Results of one run of a profile."""

    title: str
    taken: Taken
    bounds: list[Bound]
    figures: dict[str, float | str]
    notes: list[str]


def usual(taken: Taken) -> dict[str, float | str]:
    """Returns the figures that every profile prints."""
    fixed = taken.latencies()
    logged = taken.logged()
    return {
        "requests": taken.requests(), "requests/s": taken.per_second(),
        "p50 ms": percentile(fixed, 0.5), "p95 ms": percentile(fixed, 0.95),
        "p99 ms": percentile(fixed, 0.99),
        "p99 ms by the generator's own log": percentile(logged, 0.99),
        "greatest resident MiB": max(each[1] for each in taken.memory),
        "CPU of the gateway, % of a core": taken.cpu_percent(),
        "CPU µs per request": taken.cpu_seconds / max(taken.requests(), 1) * 1e6,
    }


def error_share(taken: Taken) -> float:
    return taken.failed() / max(taken.requests() + taken.failed(), 1) * 100


# The most seconds that a closed loop may take.
CLOSED_SECONDS = 120


def closed_then_paced(stage: Stage, path: str, users: int, each: int) -> tuple[Taken, Taken]:
    """Runs a closed loop of some users with `each` requests, then the same users by a schedule."""
    rate, seconds = stage.options.rate(1000), stage.options.seconds(30)
    closed = Part("closed", [path], CLOSED_SECONDS, total=users * each, clients=users)
    paced = Part("paced", [path], seconds, rate, clients=users)
    return stage.run([closed]), stage.run([paced])


def share_of_trial(options, requests: int) -> int:
    """Returns the number of requests of a user: all of them unless the run is a short trial."""
    return max(round(requests * min(options.seconds(30) / 30, 1)), 10)


def api(stage: Stage) -> Outcome:
    options = stage.options
    stage.open()
    users, rate = options.count(100), options.rate(1000)
    each = share_of_trial(options, 1000)
    closed, paced = closed_then_paced(stage, "/api/v1/tasks", users, each)
    beside = memory_beside_cache(paced)
    fixed, fast = paced.latencies(), closed.latencies()
    return Outcome(
        "an API that nothing caches", paced,
        [Bound("S-106", f"requests/s of {users} users without pauses", "/s",
               closed.per_second(), ">=", rate),
         Bound("S-106", "p95 of these", "ms", percentile(fast, 0.95), "<=", 200),
         Bound("S-106", "failed of these", "%", error_share(closed), "<=", 0.1),
         Bound("S-106", f"p95 at {rate:,.0f} requests/s", "ms",
               percentile(fixed, 0.95), "<=", 200),
         Bound("S-106", f"failed at {rate:,.0f} requests/s", "%",
               error_share(paced), "<=", 0.1),
         Bound("S-107", f"completed requests of {users} users with {each} each", "",
               users * each - closed.failed(), ">=", users * each * 0.999),
         Bound("S-104", f"resident memory without the cache at {rate:,.0f} requests/s", "MiB",
               beside, "<=", 100),
         Bound("S-104", "CPU at that rate, of four cores", "%",
               paced.cpu_percent() / 4, "<=", 10)],
        usual(paced), ["First each user sends the next request at once (a closed loop), then the "
                       "same users keep a schedule; memory and plot are of the second part."])


def portal(stage: Stage) -> Outcome:
    options = stage.options
    stage.open()
    users, rate = options.count(1000), options.rate(1000)
    closed, paced = closed_then_paced(stage, "/api/portal", users, share_of_trial(options, 100))
    return Outcome(
        "a portal of 1,000 users", paced,
        [Bound("S-108", f"requests/s of {users} users without pauses", "/s",
               closed.per_second(), ">=", rate),
         Bound("S-108", "mean of these", "ms", mean(closed.latencies()), "<=", 200),
         Bound("S-108", "failed of these", "", closed.failed(), "<=", 0),
         Bound("S-108", f"mean at {rate:,.0f} requests/s", "ms",
               mean(paced.latencies()), "<=", 200),
         Bound("S-108", f"failed at {rate:,.0f} requests/s", "", paced.failed(), "<=", 0)],
        {**usual(paced), "mean ms without pauses": mean(closed.latencies()),
         "requests/s without pauses": closed.per_second()},
        ["First each user sends the next request at once (a closed loop), then the same users "
         "keep a schedule; the plot is of the second part."])


def mix(stage: Stage) -> Outcome:
    options = stage.options
    stage.open()
    seconds, rate = options.seconds(60), options.rate(200)
    hits = [f"/long/{number}" for number in range(50)]
    stage.warm(hits)
    before = stage.cache_results()
    misses = max(round(rate * 0.3 * seconds), 1)
    parts = [Part("hit", hits, seconds, rate * 0.7, clients=options.count(100)),
             # One connection of HTTP/2, on which a slow response delays no other request.
             Part("miss", [f"/slow/{number}" for number in range(misses + 10)], seconds,
                  rate * 0.3, h2=True)]
    taken = stage.run(parts)
    after = stage.cache_results()
    hit = after.get("hit", 0) - before.get("hit", 0)
    missed = after.get("miss", 0) - before.get("miss", 0)
    return Outcome(
        "70 % hits, 30 % misses at an origin that takes 500 to 1,000 ms", taken,
        [Bound("S-109", "p95 of hits", "ms", percentile(taken.latencies("hit"), 0.95), "<=", 100),
         Bound("S-109", "mean of misses", "ms", mean(taken.latencies("miss")), "<=", 1000),
         Bound("S-109", "mean of all", "ms", mean(taken.latencies()), "<=", 400),
         Bound("S-109", "hits, by the gateway's count", "%",
               hit / max(hit + missed, 1) * 100, ">=", 69),
         Bound("S-109", "failed", "", taken.failed(), "<=", 0)],
        {**usual(taken), "p50 ms of hits": percentile(taken.latencies("hit"), 0.5),
         "p95 ms of misses": percentile(taken.latencies("miss"), 0.95)},
        [f"{rate:,.0f} requests/s: hits by HTTP/1.1, misses by HTTP/2 over TLS."])


# Number of URLs, and exponent of their popularity.
URLS, EXPONENT = 12_000, 1.1
# Bytes of the body of each, in origin.js.
BODY = 8192
# Share of the cache's memory that bodies have at least: headers, keys and indexes need the rest,
# and small stores are split into shards that do not fill up evenly.
BODIES = 0.9 * 0.8


def zipf_profile(stage: Stage) -> Outcome:
    options = stage.options
    mib = 24
    stage.open(cache=f"{mib}MiB")
    seconds, rate = options.seconds(60), options.rate(1000)
    draw = random.Random(21)
    clients = 4
    each = round(rate * seconds / clients)
    drawn = [[f"/long/{number}" for number in zipf(draw, URLS, EXPONENT, each)]
             for _ in range(clients)]
    taken = stage.run([Part(f"client {number + 1}", paths, seconds, rate / clients, h2=True)
                       for number, paths in enumerate(drawn)])
    results, metrics = stage.cache_results(), stage.metrics()
    share = results.get("hit", 0) / max(sum(results.values()), 1) * 100
    objects = int(stage.total(metrics, "edgeway_cache_objects"))
    evicted = metrics.get("edgeway_cache_evictions_total", 0)
    # The clients take turns. Without evictions everything had room.
    keys = [path for turn in zip(*drawn) for path in turn]
    simple = evaluate.lru_hits(keys, objects if evicted else URLS) / len(keys) * 100
    # A cache that stores little would be compared with an LRU that stores little.
    expected = min(BODIES * mib * 1048576 / BODY, 0.9 * len(set(keys)))
    used = stage.total(metrics, "edgeway_cache_bytes") / 1048576
    resident_mib = max(each[1] for each in taken.memory)
    return Outcome(
        "12,000 URLs by Zipf's law, a cache with room for a fifth of them", taken,
        [Bound("cache", "hits", "%", share, ">=", simple * 0.95),
         Bound("cache", "stored responses", "", objects, ">=", expected),
         Bound("cache", "memory of the cache", "MiB", used, "<=", mib),
         Bound("S-104", "resident memory without the cache's", "MiB",
               resident_mib - min(used, mib), "<=", 100),
         Bound("cache", "failed", "", taken.failed(), "<=", 0)],
        {**usual(taken), "hits % of LRU": simple, "evictions": evicted},
        [f"{rate:,.0f} requests/s over {clients} connections of HTTP/2, each with its own draw "
         f"(exponent {EXPONENT}); the cache begins empty. The bound is 0.95 of the hits that "
         "simple eviction of the least recently used response (LRU) has with the same requests "
         "and as many stored responses."])


def shop(stage: Stage) -> Outcome:
    options = stage.options
    stage.open()
    cores = os.cpu_count() or 1
    users, rate = options.count(2000), options.rate(1060 * cores)
    seconds = options.seconds(60)
    cached = [f"/long/{number}" for number in range(200)]
    stage.warm(cached)
    parts = [Part("cached", cached, seconds, rate * 0.7, clients=max(round(users * 0.7), 1)),
             Part("uncached", ["/work/1"], seconds, rate * 0.3, clients=max(round(users * 0.3), 1))]
    taken = stage.run(parts)
    resident_mib = max(each[1] for each in taken.memory)
    return Outcome(
        "a shop with 2,000 users", taken,
        [Bound("S-110", "requests/s", "/s", taken.per_second(), ">=", rate * 0.99),
         Bound("S-110", "mean of cached ones", "ms", mean(taken.latencies("cached")), "<=", 45),
         Bound("S-110", "mean of uncached ones (the origin takes 100 ms)", "ms",
               mean(taken.latencies("uncached")), "<=", 180),
         Bound("S-110", "failed", "", taken.failed(), "<=", 0),
         Bound("S-110", f"CPU of the gateway, of {cores} cores", "%",
               taken.cpu_percent() / cores, "<=", 65),
         Bound("S-110", "resident memory", "MiB", resident_mib, "<=",
               2560 * cores / REFERENCE_CORES)],
        usual(taken),
        [f"8,500 requests/s on {REFERENCE_CORES} cores are {1060 * cores:,} on {cores} (factor "
         f"{cores / REFERENCE_CORES:g}); the memory is scaled alike, the times are not. "
         "The schedule must be kept to 1 %."])


# Users, and the mean in ms that S-111 allows with as many.
STEPS = ((100, 25), (1000, 80), (5000, 150), (10_000, 200))


def steps(stage: Stage) -> Outcome:
    options = stage.options
    stage.open()
    cores = os.cpu_count() or 1
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cap = options.rate(1060 * cores)
    seconds = options.seconds(80) / len(STEPS)
    cached = [f"/long/{number}" for number in range(50)]
    stage.warm(cached)
    bounds: list[Bound] = []
    figures: dict[str, float | str] = {}
    runs: list[Taken] = []
    reduced = False
    for wanted, limit in STEPS:
        users = min(options.count(wanted), files - RESERVED_FILES)
        reduced |= users < options.count(wanted)
        # A request a second and user, as far as the cores go; at least one in ten seconds.
        rate = max(min(users * 1.0, cap), users / 10)
        # Everyone sends at least three requests, so all are connected for some time: the first
        # ones leave after the last ones have come.
        long = max(seconds, 3 * users / rate)
        taken = stage.run([
            Part("cached", cached, long, rate * 0.7, clients=max(round(users * 0.7), 1)),
            Part("api", ["/api/v1/tasks"], long, rate * 0.3, clients=max(round(users * 0.3), 1))])
        bounds += [Bound("S-111", f"mean with {users:,} users", "ms",
                         mean(taken.latencies()), "<=", limit),
                   Bound("S-111", f"failed with {users:,} users", "", taken.failed(), "<=", 0),
                   Bound("S-111", f"connections at once of {users:,} users", "",
                         taken.connected, ">=", users * 0.95)]
        figures[f"p95 ms with {users:,}"] = percentile(taken.latencies(), 0.95)
        figures[f"requests/s with {users:,}"] = taken.per_second()
        figures[f"resident MiB with {users:,}"] = max(each[1] for each in taken.memory)
        runs.append(taken)
    bounds.append(Bound("S-111", "limit of open files", "", files, ">=", 20_000))
    notes = [f"At most {cap:,.0f} requests/s ({1060 * cores:,} for {cores} cores), 70 % of them "
             "hits; users and times as required."]
    if reduced:
        notes.append(f"Users are limited by the {files:,} open files of a process here.")
    return Outcome("users in steps", joined(runs), bounds, figures, notes)


def joined(runs: list[Taken]) -> Taken:
    """Puts runs after one another on one axis of time."""
    whole = dataclasses.replace(runs[0], rows={}, errors={}, memory=[], seconds=0.0,
                                cpu_seconds=0.0, foreign_percent=0.0)
    for run in runs:
        for name, rows in run.rows.items():
            whole.rows.setdefault(name, Rows()).extend(rows, later=whole.seconds)
            whole.errors[name] = whole.errors.get(name, 0) + run.errors[name]
        whole.memory += [(each[0] + whole.seconds, *each[1:]) for each in run.memory]
        whole.seconds += run.seconds
        whole.cpu_seconds += run.cpu_seconds
        whole.connected = max(whole.connected, run.connected)
        whole.foreign_percent = max(whole.foreign_percent, run.foreign_percent)
    return whole


# Resident KiB of an idle connection, without and with TLS, as in thresholds.json.
IDLE_KIB = {False: 10, True: 20}


def idle(stage: Stage) -> Outcome:
    options = stage.options
    stage.open()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(options.count(4000), (files - RESERVED_FILES) // 2)
    # Fills pools and lazy statics first.
    before = stage.run([Part("before", ["/api/v1/tasks"], 3, options.rate(200), clients=20)])
    for connection in stage.hold_connections(20, tls=True):
        connection.close()
    pids = tree(stage.gateway.pid)
    held, each = [], {}
    for tls in (False, True):
        low = resident(pids)
        held += stage.hold_connections(count, tls)
        each[tls] = (resident(pids) - low) / count / 1024
    beside = stage.run([Part("beside", ["/api/v1/tasks"], options.seconds(10),
                             options.rate(200), clients=20)])
    for connection in held:
        connection.close()
    return Outcome(
        "idle connections", joined([before, beside]),
        [Bound("S-112", "resident memory of an idle connection", "KiB", each[False], "<=",
               IDLE_KIB[False]),
         Bound("S-112", "the same with TLS", "KiB", each[True], "<=", IDLE_KIB[True]),
         Bound("S-112", "failed beside them", "", beside.failed(), "<=", 0)],
        {"idle connections": 2 * count,
         "MiB for 100,000 without TLS": each[False] * 100_000 / 1024,
         "MiB for 100,000 with TLS": each[True] * 100_000 / 1024,
         "p95 ms beside them": percentile(beside.latencies(), 0.95)},
        ["One request on each connection, then nothing."])

"""Profiles in which something happens: spike, peak, flood, blocked, orders, soak."""

import pathlib
import random
import urllib.request

from .evaluate import Bound, growth_percent, percentile
from .generator import Part, zipf
from .stage import Stage, memory_beside_cache
from .steady import Outcome, usual

HERE = pathlib.Path(__file__).resolve().parent


def spike(stage: Stage) -> Outcome:
    stage.open()
    options = stage.options
    third = options.seconds(60) / 3
    base, high = options.rate(200), options.rate(1000)
    cached = [f"/long/{number}" for number in range(50)]
    stage.warm(cached)

    def parts(name: str, rate: float, start: float, seconds: float) -> list[Part]:
        users = options.count(50)
        return [Part(f"{name}, hits", cached, seconds, rate * 0.5, clients=users, start=start),
                Part(f"{name}, api", ["/api/v1/tasks"], seconds, rate * 0.5, clients=users,
                     start=start)]

    taken = stage.run([*parts("base", base, 0, third * 3),
                       *parts("spike", high - base, third, third)])
    # Connections of a spike begin at once and end a little late.
    before = percentile(taken.latencies("base, hits", "base, api", since=third / 4, until=third),
                        0.95)
    during = percentile(taken.latencies(since=third, until=2 * third), 0.95)
    after = percentile(taken.latencies("base, hits", "base, api", since=2.25 * third), 0.95)
    limit = max(1.3 * before, before + 5) if before else 0
    return Outcome(
        "five times the load at once", taken,
        [Bound("spike", "failed", "", taken.failed(), "<=", 0),
         Bound("spike", "p95 during the spike", "ms", during, "<=", 200),
         Bound("spike", "p95 after it", "ms", after, "<=", limit)],
        {**usual(taken), "p95 ms before": before},
        [f"{base:,.0f}, {high:,.0f} and again {base:,.0f} requests/s, a third of the time each. "
         "After the spike p95 may be 1.3 times that before, or 5 ms more."])


def peak(stage: Stage) -> Outcome:
    stage.open(origins=2)
    options = stage.options
    phase = options.seconds(60) / 3
    rate, users = options.rate(250), options.count(100)
    deals = [f"/deals/{number}" for number in range(200)]
    sock = ["--socket", str(stage.fleet.folder / "admin.sock")]
    # Started here and not in `prepare`: a process ends with the thread that started it.
    more = [stage.add_origin() for _ in range(2)]
    hits: dict[str, dict[str, float]] = {}
    profiles: list[bool] = []

    def is_peak() -> bool:
        return stage.metrics().get('edgeway_profile_active{profile="peak"}') == 1

    def prepare() -> None:
        stage.command("profile", "peak", *sock)
        for port in more:
            stage.command("upstream", "add", "origin", f"127.0.0.1:{port}", *sock)
        stage.warm(deals)
        profiles.append(is_peak())
        hits["before"] = stage.cache_results()

    def end() -> None:
        hits["after"] = stage.cache_results()
        stage.command("profile", "--off", *sock)
        for port in more:
            stage.command("drain", f"origin/127.0.0.1:{port}", *sock)
            stage.command("upstream", "remove", "origin", f"127.0.0.1:{port}", *sock)
        profiles.append(is_peak())

    # The load goes up once everything is prepared, which takes some seconds.
    ready = max(phase, 8.0)

    def parts(name: str, each: float, start: float, seconds: float) -> list[Part]:
        return [Part(f"{name}, deals", deals, seconds, each * 0.9, clients=users, start=start),
                Part(f"{name}, orders", ["/api/v1/tasks"], seconds, each * 0.1,
                     clients=max(users // 10, 1), start=start)]

    taken = stage.run([*parts("day", rate, 0, ready + 2 * phase),
                       *parts("peak", rate * 3, ready, phase)],
                      at={0.5: prepare, ready + phase * 0.9: end})
    stats = stage.origin_stats()
    change = {key: hits["after"].get(key, 0) - hits["before"].get(key, 0)
              for key in hits["after"]}
    share = (change.get("hit", 0) + change.get("stale", 0)) / max(sum(change.values()), 1) * 100
    during = taken.latencies(since=ready, until=ready + phase)
    return Outcome(
        "a peak: profile, more backends, warm cache, load × 4, and back", taken,
        [Bound("S-118", "failed", "", taken.failed(), "<=", 0),
         Bound("S-118", "hits during the peak", "%", share, ">=", 80),
         Bound("S-118", "switches of the profile that took effect", "",
               int(profiles == [True, False]) * 2, ">=", 2),
         Bound("S-118", "p95 during the peak", "ms", percentile(during, 0.95), "<=", 200)],
        {**usual(taken), "requests that reached the origins": stats["requests"]},
        ["`edgeway profile peak`, `upstream add` of two backends beside two, `warm`; then four "
         f"times {rate:,.0f} requests/s; `profile --off`, `drain` and `upstream remove` under "
         "load. With systemd units, `edgeway scale` does the same: `make test-systemd` tests it."])


def flood(stage: Stage) -> Outcome:
    stage.open()
    options = stage.options
    seconds = options.seconds(40) / 2
    visitors, flooders = 8, 3
    rate = options.rate(20)

    def others(name: str) -> list[Part]:
        return [Part(name, ["/api/flooded"], seconds, rate, clients=2,
                     headers=(f"X-Forwarded-For: 192.0.2.{number + 1}",))
                for number in range(visitors)]

    quiet = stage.run(others("visitors"))
    # Never so few that the limit is not reached.
    flooded = max(options.rate(500), 200)
    attack = [Part(f"flood {number + 1}", ["/api/flooded"], seconds, flooded, clients=10,
                   headers=(f"X-Forwarded-For: 198.51.100.{number + 1}",), expected=(429,),
                   judged=False) for number in range(flooders)]
    taken = stage.run([*others("visitors"), *attack])
    refused = sum(taken.statuses(part.name).get(429, 0) for part in attack)
    passed = [taken.statuses(part.name).get(200, 0) for part in attack]
    span = max(row[0] for part in attack for row in taken.rows[part.name])
    normal = percentile(quiet.latencies("visitors"), 0.95)
    during = percentile(taken.latencies("visitors"), 0.95)
    bad = sum(row[3] in (500, 502, 503, 504, -1) for rows in taken.rows.values() for row in rows)
    return Outcome(
        "a flood from three addresses beside eight visitors", taken,
        [Bound("S-116", "requests of the flood that were limited (429)", "", refused, ">=", 1),
         Bound("S-116", "admitted of the address with most", "", max(passed), "<=",
               (50 + 50 * span) * 1.02),
         Bound("S-116", "visitors' failed or limited requests", "",
               taken.failed("visitors") + quiet.failed(), "<=", 0),
         Bound("S-116", "p95 of visitors", "ms", during, "<=",
               max(2 * normal, normal + 5) if normal else 0),
         Bound("S-116", "5xx and lost responses", "", bad, "<=", 0)],
        {**usual(taken), "p95 ms of visitors without the flood": normal,
         "limited": refused, "admitted of the flood": sum(passed)},
        [f"A limit of 50/s for each address, shared in Redis; each flooding address sends "
         f"{flooded:,.0f} requests/s, each visitor {rate:,.0f}. During the flood p95 "
         "may be twice that without it, or 5 ms more."])


def blocked(stage: Stage) -> Outcome:
    module = HERE.parent.parent / "packaging" / "npm" / "edgeway-node"
    # The negative control has a balancing that knows nothing of event loops.
    balance = "round_robin" if stage.options.control == "blind" else "node"
    stage.open(origins=4, env={"NODE_OPTIONS": f"--require {module}"},
               upstream=f"balance: {balance}")
    seconds, rate = stage.options.seconds(16) / 2, max(stage.options.rate(200), 50)
    first = stage.origin_ports[0]
    given: list[float] = []

    def block() -> None:
        url = f"http://127.0.0.1:{first}/block/{round(seconds * 1000) + 1000}"
        urllib.request.urlopen(url, timeout=30).close()

    def look() -> None:
        # It responds to nothing, so what it was given is still in flight.
        given.append(sum(value for series, value in stage.metrics().items()
                         if series.startswith("edgeway_backend_in_flight{")
                         and f'"127.0.0.1:{first}"' in series))

    # Many clients of few requests: one that waits for the blocked app sends none meanwhile.
    taken = stage.run(
        [Part("api", ["/api/v1/tasks"], 2 * seconds, rate, clients=max(round(rate), 1))],
        at={seconds: block, seconds + 2: look, 2 * seconds - 1: look})
    rows = taken.rows["api"]
    quiet = percentile([row[2] for row in rows if seconds / 4 <= row[0] < seconds], 0.95)
    # The schedule of all clients knows no gaps of one, so its requests are added as slow ones.
    unsent = [seconds * 1000] * round(given[1] * seconds)
    during = percentile([row[2] for row in rows if row[0] >= seconds] + unsent, 0.95)
    served = sum(seconds + 2 <= row[0] < 2 * seconds - 1 for row in rows)
    share = (given[1] - given[0]) / max(served, 1) * 100
    return Outcome(
        "four Node.js apps, of which one blocks its event loop", taken,
        [Bound("node", "share of the blocked app after 2 s", "%", share, "<=", 5),
         Bound("node", "p95 during the block", "ms", during, "<=", 1.3 * quiet if quiet else 0),
         Bound("node", "requests that waited for the blocked app", "", given[1], ">=", 1),
         Bound("node", "failed", "", taken.failed(), "<=", 0)],
        {**usual(taken), "p95 ms before": quiet},
        [f"`balance: {balance}`; {rate:,.0f} requests/s for {2 * seconds:.0f} s, and in the second "
         "half one of the apps responds to nothing."])


def orders(stage: Stage) -> Outcome:
    options = stage.options
    seconds, rate = options.seconds(60), max(options.rate(17), 2)
    count = round(rate * seconds) + 10
    drop = 25 if count > 100 else 5
    stage.open(env={"ORDERS_DROP": str(drop)})
    taken = stage.run([
        # A dropped order is a 502 to its client, who alone may decide to send it again.
        Part("orders", [f"/orders/{number}" for number in range(count)], seconds, rate,
             h2=True, body=b'{"item":42}', expected=(502,)),
        Part("pages", ["/api/v1/tasks"], seconds, rate, clients=5)])
    stats = stage.origin_stats()
    seen = taken.statuses("orders")
    return Outcome(
        f"orders, of which the origin loses one in {drop} after it has counted it", taken,
        [Bound("S-112", "orders/s", "/s", taken.per_second("orders"), ">=", rate * 0.95),
         Bound("S-112", "orders that reached the origin twice", "", stats["duplicates"], "<=", 0),
         Bound("S-112", "confirmed orders that the origin lacks", "",
               max(seen.get(201, 0) - (stats["orders"] - stats["dropped"]), 0), "<=", 0),
         Bound("S-112", "orders that the origin has and whose client got an error, beyond "
               "the dropped ones", "",
               max(stats["orders"] - stats["dropped"] - seen.get(201, 0), 0), "<=", 0),
         Bound("S-112", "dropped orders, so that the run has some", "", stats["dropped"], ">=", 1),
         Bound("S-112", "other failures", "", taken.failed()
               + max(seen.get(502, 0) - stats["dropped"], 0), "<=", 0)],
        {**usual(taken), "orders": stats["orders"], "dropped": stats["dropped"]},
        [])


def soak(stage: Stage) -> Outcome:
    stage.open(cache="32MiB")
    options = stage.options
    seconds, rate = options.seconds(1800), options.rate(1200)
    products = 2000
    draw = random.Random(5)
    stage.warm([f"/products/{number}" for number in range(products)])

    def traffic(length: float, round_number: int) -> list[Part]:
        parts = []
        for _ in range(4):
            paths = [f"/products/{each}" for each in zipf(
                draw, products, 0.9, min(int(rate * 0.5 / 4 * length) + 1, 20_000))]
            parts.append(Part("pages", paths, length, rate * 0.5 / 4, h2=True))
        every = int(length * max(rate * 17 / 1200, 1)) + 20
        return [
            *parts,
            Part("api", ["/api/v1/tasks"], length, rate * 0.33, clients=options.count(200)),
            Part("shared limit", ["/api/shared"], length, rate * 0.1, clients=options.count(20)),
            Part("slow", ["/work/1"], length, rate * 0.03, clients=options.count(30)),
            Part("large", ["/large/1"], length, rate * 0.026, clients=options.count(10)),
            Part("orders", [f"/orders/{round_number}-{each}" for each in range(every)], length,
                 max(rate * 17 / 1200, 1), h2=True, body=b'{"item":42}'),
            # What the machine itself does to latencies meanwhile.
            Part("origin alone", ["/api/v1/tasks"], length, rate * 0.02,
                 clients=options.count(4), judged=False, origin=stage.origin_ports[0])]

    # Pools, heaps and the cache reach their size before anything counts.
    stage.run(traffic(min(20.0, seconds / 2), 0))
    held: list = []

    def leak() -> None:
        held.extend(stage.hold_connections(50))

    taken = stage.run(traffic(seconds, 1),
                      beside=leak if options.control == "leak" else None)
    for connection in held:
        connection.close()
    window = min(300.0, seconds / 4)
    first = percentile(taken.latencies(until=window), 0.9)
    last = percentile(taken.latencies(since=seconds - window), 0.9)
    stats = stage.origin_stats()
    grown = growth_percent([(at, mib) for at, mib, _ in taken.memory])
    named = "five minutes" if window == 300 else f"{window:.0f} s"
    return Outcome(
        "mixed traffic", taken,
        [Bound("S-112", "requests/s", "/s", taken.per_second(), ">=", rate * 0.99),
         Bound("S-112", "growth of resident memory", "%", grown, "<=", 5),
         Bound("S-112", "failed", "", taken.failed(), "<=", 0),
         Bound("S-112", f"p90 of the last {named}", "ms", last, "<=",
               1.3 * first if first else 0),
         Bound("S-112", "orders that reached the origin twice", "", stats["duplicates"], "<=", 0),
         Bound("S-104", "resident memory without the cache", "MiB", memory_beside_cache(taken),
               "<=", 100),
         Bound("S-104", "CPU of the gateway, of four cores", "%",
               taken.cpu_percent() / 4, "<=", 10 * max(rate / 1000, 1))],
        {**usual(taken), f"p90 ms of the first {named}": first,
         f"p90 ms of the origin alone in the first {named}":
             percentile(taken.latencies("origin alone", until=window), 0.9),
         f"p90 ms of the origin alone in the last {named}":
             percentile(taken.latencies("origin alone", since=seconds - window), 0.9),
         "resident MiB in the first tenth": _tenth(taken.memory, 0),
         "resident MiB in the last tenth": _tenth(taken.memory, 9)},
        [f"{rate:,.0f} requests/s: half of them pages by HTTP/2 over TLS (Zipf, fresh for a "
         "minute), API calls by HTTP/1.1 of which a quarter count at a limit in Redis, responses "
         "that take 100 ms, responses of 64 KiB, and orders. Growth compares the first with the "
         "last tenth. The limit of the CPU is for 1,000 requests/s and rises with the rate. "
         "A fiftieth of the rate goes from the generator straight to the origin: how its latency "
         "changes is the machine's and the origin's doing."])


def _tenth(memory: list, number: int) -> float | None:
    begin, end = memory[0][0], memory[-1][0]
    low, high = (begin + (end - begin) * each / 10 for each in (number, number + 1))
    found = [mib for at, mib, _ in memory if low <= at <= high]
    return percentile(found, 0.5)

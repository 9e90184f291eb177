"""Percentiles, growth and verdicts: the arithmetic of the profiles, without any input or output."""

import collections
import dataclasses
import math
import statistics

# Lateness that the generator itself causes: its timers fire every 10 ms, and connections that
# begin together are spread over a few milliseconds.
TOLERANCE_MS = 20.0


def percentile(values: list[float], share: float) -> float | None:
    """Returns the smallest value that is not exceeded by `share` of all (nearest rank)."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def rate(starts: list[float]) -> float:
    """Returns how many per second begin in the middle four fifths of the time."""
    if len(starts) < 2 or max(starts) == min(starts):
        return 0.0
    tenth = (max(starts) - min(starts)) / 10
    low, high = min(starts) + tenth, max(starts) - tenth
    return sum(low <= at < high for at in starts) / (high - low)


def growth_percent(series: list[tuple[float, float]]) -> float | None:
    """Returns by how many per cent the last tenth of a series exceeds its first tenth.

    Both are medians, so that one high or low sample changes nothing. None if the series is too
    short for two samples in each.
    """
    if len(series) < 4:
        return None
    begin, end = series[0][0], series[-1][0]
    tenth = (end - begin) / 10
    first = [value for at, value in series if at <= begin + tenth]
    last = [value for at, value in series if at >= end - tenth]
    if len(first) < 2 or len(last) < 2:
        first = [value for _, value in series[:2]]
        last = [value for _, value in series[-2:]]
    return (statistics.median(last) / statistics.median(first) - 1) * 100


def schedule(clients: int, each: int, rate: float, together: int, gap: float) -> list[float]:
    """Returns when each request is due, in seconds after the first one, in ascending order.

    Every `gap` seconds `together` clients begin, of which each sends `each` requests at its share
    of the rate.
    """
    apart = clients / rate
    begins = [client // together * gap for client in range(clients)]
    return sorted(begin + number * apart for number in range(each) for begin in begins)


def lateness_ms(starts: list[float], due: list[float]) -> list[float]:
    """Returns by how many milliseconds each request began after its place in the schedule.

    `starts` are seconds in ascending order. A request that began early is not late; one that never
    began has no lateness.
    """
    return [max((start - starts[0] - at) * 1000, 0.0) for start, at in zip(starts, due)]


def corrected_ms(latency_ms: float, late_ms: float) -> float:
    """Returns the time from the moment at which a request was due until its response was complete.

    A generator that waits for a slow response before it sends the next request hides the wait
    (coordinated omission). Lateness within the tolerance is the generator's own.
    """
    return latency_ms + (late_ms if late_ms > TOLERANCE_MS else 0.0)


@dataclasses.dataclass(frozen=True)
class Bound:
    """One figure of a requirement: at most (`<=`) or at least (`>=`) a limit."""

    requirement: str
    figure: str
    unit: str
    measured: float | None
    sign: str
    limit: float

    def verdict(self) -> dict:
        if self.measured is None:
            is_met = False
        elif self.sign == "<=":
            is_met = self.measured <= self.limit
        elif self.sign == ">=":
            is_met = self.measured >= self.limit
        else:
            raise ValueError(f"unknown sign {self.sign!r}")
        return {**dataclasses.asdict(self), "met": is_met}


def over_repeats(runs: list[list[dict]]) -> list[dict]:
    """Joins the verdicts of repeated runs: the median with its range, met if every run met it."""
    joined = []
    for same in zip(*runs, strict=True):
        measured = [each["measured"] for each in same if each["measured"] is not None]
        joined.append({
            **same[0],
            "measured": statistics.median(measured) if measured else None,
            "least": min(measured, default=None), "most": max(measured, default=None),
            # A limit can depend on the run: twice the quiet time, for example.
            "limit": statistics.median(each["limit"] for each in same),
            "runs": len(same), "runs_met": sum(each["met"] for each in same),
            "met": all(each["met"] for each in same)})
    return joined


def lru_hits(keys: list[str], room: int) -> int:
    """Returns the hits of a cache for `room` responses that evicts the least recently used one."""
    stored: collections.OrderedDict[str, None] = collections.OrderedDict()
    hits = 0
    for key in keys:
        if key in stored:
            hits += 1
            stored.move_to_end(key)
        else:
            stored[key] = None
            if len(stored) > room:
                stored.popitem(last=False)
    return hits

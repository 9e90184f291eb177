"""The tables, the thresholds, and the description of the machine."""

import os
import pathlib
import platform
import statistics
import subprocess

# Key in the results: column title, number of decimals.
FIGURES = {"cpu_us": ("CPU µs", 1), "instructions": ("instructions", 0),
           "idle_kib": ("idle KiB", 1)}


def median_of(value):
    """Returns the median of a list, or a single value unchanged."""
    if isinstance(value, list):
        present = [each for each in value if each is not None]
        return statistics.median(present) if present else None
    return value


def ratio(taken: dict, figure: str, proxy: str, over: str) -> float | None:
    """Returns the figure of one proxy divided by that of another."""
    ours, theirs = (median_of(taken.get(name, {}).get(figure)) for name in (proxy, over))
    return ours / theirs if ours and theirs else None


def table(workload: str, taken: dict) -> str:
    """Returns the results of one workload as a Markdown table."""
    others = [name for name in ("bare", "nginx") if name in taken]
    head = [workload]
    for title, _ in FIGURES.values():
        head += [title, *(f"÷ {name}" for name in others)]
    head += ["calls", "req/s", "p99 ms", "foreign CPU"]
    rows = []
    for name, figures in taken.items():
        row = [name]
        for figure, (_, decimals) in FIGURES.items():
            value = figures.get(figure)
            text = "–" if not value else f"{median_of(value):,.{decimals}f}"
            if isinstance(value, list) and len(value) > 1:
                text += f" ({min(value):,.{decimals}f}–{max(value):,.{decimals}f})"
            row.append(text)
            for other in others:
                times = ratio(taken, figure, name, other)
                row.append("–" if times is None else f"{times:.2f}")
        row.append(_plain(figures.get("syscalls"), ".1f"))
        row.append(_plain(median_of(figures.get("requests_per_second")), ",.0f"))
        row.append(_plain(median_of(figures.get("p99_ms")), ".1f"))
        foreign = median_of(figures.get("foreign_percent"))
        row.append("–" if foreign is None else f"{foreign:.0f} %")
        rows.append(row)
    return _aligned(head, rows)


def latencies(workload: str, taken: dict, rate: int) -> str:
    """Returns the latencies of one workload as a Markdown table."""
    shares = list(next(iter(taken.values()))["latency_us"])
    head = [f"{workload}, {rate:,}/s", *(f"{share} µs" for share in shares)]
    rows = []
    for name, figures in taken.items():
        rounds = [figures["latency_us"][share] for share in shares]
        rows.append([name, *(f"{statistics.median(each):,.0f} ({min(each):,}–{max(each):,})"
                             for each in rounds)])
    return _aligned(head, rows)


def _aligned(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = [cell.ljust(width) if index == 0 else cell.rjust(width)
                  for index, (cell, width) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n" + "\n".join(line(cells) for cells in [head, rule, *rows]) + "\n"


def _plain(value, form: str) -> str:
    return "–" if value is None else format(value, form)


def verdicts(thresholds: list[dict], workloads: dict) -> list[dict]:
    """Returns each threshold that this run can evaluate, with the measured value and the result."""
    found = []
    for limit in thresholds:
        taken = workloads.get(limit["workload"], {})
        if "over" in limit:
            measured = ratio(taken, limit["figure"], limit["proxy"], limit["over"])
        else:
            measured = median_of(taken.get(limit["proxy"], {}).get(limit["figure"]))
        if "minus" in limit:
            less = median_of(workloads.get(limit["minus"], {}).get(limit["proxy"], {})
                          .get(limit["figure"]))
            measured = None if None in (measured, less) else measured - less
        if measured is not None:
            found.append({**limit, "measured": round(measured, 3),
                          "met": measured <= limit["at_most"]})
    return found


def sentence(verdict: dict) -> str:
    word = "met" if verdict["met"] else "EXCEEDED"
    if "minus" in verdict:
        return (f"{verdict['workload']}: {verdict['proxy']} has {verdict['measured']:.0f} more "
                f"{verdict['figure']} than for {verdict['minus']}, "
                f"at most {verdict['at_most']:.0f}: {word}")
    if "over" not in verdict:
        return (f"{verdict['workload']}: {verdict['proxy']} has {verdict['measured']:.1f} "
                f"{verdict['figure']}, at most {verdict['at_most']:.1f}: {word}")
    return (f"{verdict['workload']}: {verdict['proxy']} needs {verdict['measured']:.2f} × "
            f"{verdict['over']}'s {verdict['figure']}, at most {verdict['at_most']:.2f}: {word}")


def machine(folder: pathlib.Path) -> dict:
    """Describes the machine, so that two results can be compared."""
    model = next((line.partition(":")[2].strip()
                  for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    return {"cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(),
            "load": [round(each, 2) for each in os.getloadavg()],
            "commit": _git(folder, "rev-parse", "HEAD"),
            "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: pathlib.Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True,
                              timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

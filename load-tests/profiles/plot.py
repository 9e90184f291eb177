"""Plots as SVG: latency, rate with errors, and memory over time, readable in dark and in light."""

import html
import math

WIDTH, LEFT, RIGHT = 860, 64, 16
PANEL, GAP, TOP = 130, 46, 44
STYLE = """
  .page { fill: #ffffff } .ink { fill: #24292f } .faint { fill: #57606a }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .line { fill: none; stroke-width: 1.6; stroke-linejoin: round }
  .one { stroke: #0969da } .two { stroke: #bc4c00 } .error { fill: #cf222e }
  text { font: 12px system-ui, sans-serif } .title { font-size: 15px; font-weight: 600 }
  .one-text { fill: #0969da } .two-text { fill: #bc4c00 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .ink { fill: #e6edf3 } .faint { fill: #9198a1 }
    .grid { stroke: #30363d } .one { stroke: #58a6ff } .two { stroke: #f0883e }
    .error { fill: #ff7b72 } .one-text { fill: #58a6ff } .two-text { fill: #f0883e }
  }
"""


def svg(title: str, series: dict) -> str:
    """Returns a plot of a run's series as an SVG image."""
    times = series["t"]
    panels = [
        ("latency, ms", [("p50", "one", series["p50"]), ("p95", "two", series["p95"])], None),
        ("requests/s", [("rate", "one", series["rate"])], series["errors"]),
        ("resident memory, MiB", [("gateway", "one", series["rss"])], None),
    ]
    height = TOP + len(panels) * (PANEL + GAP) + 4
    end = max(times[-1] if times else 1, 1)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
           f'width="{WIDTH}" height="{height}" role="img">',
           f"<title>{html.escape(title)}</title>", f"<style>{STYLE}</style>",
           f'<rect class="page" width="{WIDTH}" height="{height}"/>',
           f'<text class="ink title" x="{LEFT}" y="24">{html.escape(title)}</text>']
    for number, (label, lines, errors) in enumerate(panels):
        top = TOP + number * (PANEL + GAP) + 14
        out += _panel(label, lines, errors, times, end, top)
    return "\n".join([*out, "</svg>", ""])


def _panel(label: str, lines: list, errors: list | None, times: list, end: float,
           top: float) -> list[str]:
    highest = max((value for _, _, values in lines for value in values if value is not None),
                  default=1)
    scale = nice(highest)

    def x(at: float) -> float:
        return LEFT + at / end * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return top + PANEL - value / scale * PANEL

    out = [f'<text class="ink" x="{LEFT}" y="{top - 6}">{label}</text>']
    place = WIDTH - RIGHT
    for name, colour, _ in reversed(lines if len(lines) > 1 else []):
        out.append(f'<text class="{colour}-text" x="{place}" y="{top - 6}" '
                   f'text-anchor="end">{name}</text>')
        place -= 36
    for step in range(5):
        value = scale * step / 4
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
                   f'y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        out.append(f'<text class="faint" x="{LEFT - 6}" y="{y(value) + 4:.1f}" '
                   f'text-anchor="end">{value:,.4g}</text>')
    for step in range(6):
        at = end * step / 5
        out.append(f'<text class="faint" x="{x(at):.1f}" y="{top + PANEL + 16}" '
                   f'text-anchor="middle">{_time(at, end)}</text>')
    for _, colour, values in lines:
        for run in _runs(times, values):
            path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in run)
            out.append(f'<polyline class="line {colour}" points="{path}"/>')
    if errors is not None:
        total = sum(errors)
        out.append(f'<text class="{"error" if total else "faint"}" x="{WIDTH - RIGHT}" '
                   f'y="{top - 6}" text-anchor="end">errors: {total:,}</text>')
        out += [f'<circle class="error" cx="{x(at):.1f}" cy="{top + PANEL:.1f}" r="2.5"/>'
                for at, count in zip(times, errors) if count]
    return out


def _runs(times: list, values: list) -> list[list[tuple[float, float]]]:
    """Splits a series at its gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(times, values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]


def nice(value: float) -> float:
    """Returns the next number with one or two significant digits that divides well by four."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10)
                if step * power >= value * 0.9999)


def _time(at: float, end: float) -> str:
    return f"{at / 60:.0f} min" if end >= 300 else f"{at:.0f} s"

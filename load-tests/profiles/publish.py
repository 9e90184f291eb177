"""Results as Markdown, and their place in a page of the documentation."""

import pathlib
import shutil

BEGIN = "<!-- results: begin (written by load-tests/profile --publish) -->"
END = "<!-- results: end -->"

def number(value: float | None) -> str:
    """Returns a number with at most three significant digits after large ones are grouped."""
    if value is None:
        return "–"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

def with_unit(value: str, unit: str) -> str:
    return f"{value} {unit}".rstrip()

def rows(verdicts: list[dict]) -> list[str]:
    """Returns the rows of a profile's table."""
    out = []
    for each in verdicts:
        sign = {"<=": "≤", ">=": "≥"}[each["sign"]]
        measured = with_unit(number(each["measured"]), each["unit"])
        if each.get("runs", 1) > 1 and each["least"] != each["most"]:
            measured += f" ({number(each['least'])}–{number(each['most'])})"
        word = "met" if each["met"] else "**missed**"
        if not each["met"] and each.get("runs_met"):
            word += f" in {each['runs'] - each['runs_met']} of {each['runs']} runs"
        limit = with_unit(number(each["limit"]), each["unit"])
        out.append(f"| {each['requirement']} | {each['figure']} | {sign} {limit} | {measured} "
                   f"| {word} |")
    return out

def markdown(result: dict, plots: str | None = None) -> str:
    """Returns the results as Markdown; `plots` is the folder of the images, as links see it."""
    machine = result["machine"]
    changed = " with changes" if machine.get("changed") else ""
    out = [
        f"Measured {result['started'][:10]} on {machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB of memory, Linux {machine['kernel']}, {machine['system']}; "
        f"{result['version']}; load tests of commit {(machine.get('commit') or 'unknown')[:12]}"
        f"{changed}.",
    ]
    if result["scale"] != 1:
        out.append(f"**Rates and numbers of clients are scaled by {result['scale']:g}, so this is "
                   "a trial and not a measurement of the requirements.**")
    if result.get("control"):
        out.append(f"**A negative control (`{result['control']}`): something must be missed.**")
    for name, profile in result["profiles"].items():
        foreign = profile["foreign_percent"]
        out += ["", f"### {name}: {profile['title']}", ""]
        runs = len(foreign)
        out.append(f"{'One run' if runs == 1 else f'{runs} runs'} of {profile['seconds']:.0f} s; "
                   f"other processes used {number(max(foreign))} % of the CPUs"
                   f"{'' if runs == 1 else ' at most'}.")
        # A page lists the profiles with their traffic once, in its own words.
        out += [] if plots else profile["notes"]
        out += ["", "| | figure | required | measured | |", "|---|---|--:|--:|---|"]
        out += rows(profile["verdicts"])
        if profile["figures"] and not plots:
            figures = (f"{label} {value if isinstance(value, str) else number(value)}"
                       for label, value in profile["figures"].items())
            when = "" if runs == 1 else " in the last run"
            out += ["", f"Also measured{when}: " + "; ".join(figures) + "."]
        if plots is not None:
            link = f"{plots}/{name}.svg" if plots else f"{name}.svg"
            out += ["", f"![{name} over time]({link})"]
    return "\n".join(out)

def replaced(page: str, section: str) -> str:
    """Returns the page with the text between the markers replaced."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines `{BEGIN}` and `{END}`")
    return f"{before}{BEGIN}\n\n{section}\n\n{END}{after}"

def publish(page: pathlib.Path, results: list[tuple[pathlib.Path, dict]]) -> list[str]:
    """Writes results into a page, and their plots into a folder beside it; returns what it wrote.

    Profiles of later files replace those of earlier ones.
    """
    last: dict[str, int] = {}
    for place, (_, result) in enumerate(results):
        last.update(dict.fromkeys(result["profiles"], place))
    folder = page.parent / page.stem
    images, sections = {}, []
    for place, (path, result) in enumerate(results):
        kept = {name: each for name, each in result["profiles"].items() if last[name] == place}
        if kept:
            sections.append(markdown({**result, "profiles": kept}, plots=page.stem))
            images.update({path.parent / f"{name}.svg": folder / f"{name}.svg" for name in kept})
    text = replaced(page.read_text(), "\n\n".join(sections))
    folder.mkdir(exist_ok=True)
    for source, image in images.items():
        shutil.copy(source, image)
    page.write_text(text)
    return [str(page), *map(str, images.values())]

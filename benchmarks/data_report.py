"""What the benchmark of data preparation says: a table for each measure, a drawing, and the goals."""

import itertools
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rao_kedro.files import replacing, write_text

TITLES = {
    "read": "read and group (`collect_preferences`)",
    "tokenise": "tokenise, divide, report (`tokenize`)",
    "annotate": "annotate with the ratings (`annotate_responses`)",
    "report": "report on the rewards (`report_rewards`, `plot_rewards`)",
    "reference": "write reference log-probs, without the model (`score_reference`)",
    "training": "read for training, without the model",
}
PAPER = "61135"  # rows of UltraFeedback in the paper's setting


def write(directory: Path, size: int, found: dict[str, Any]) -> dict[str, Any]:
    """Add what was measured at one size to `data.json`, and write `data.md` and `data.png` anew; return the report."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "data.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"sizes": {}}
    found["machine"] = machine()
    sizes = {**report["sizes"], str(size): found}
    report["sizes"] = {name: sizes[name] for name in sorted(sizes, key=int)}
    report["goals"] = goals(report["sizes"])
    write_text(path, json.dumps(report, indent=2) + "\n")
    write_text(directory / "data.md", markdown(report))
    draw(report["sizes"], directory / "data.png")
    return report


def machine() -> str:
    """Return what the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name)}" for name in ("pyarrow", "tokenizers", "transformers"))
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores; {packages}"


def goals(sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the goals are about."""
    found: dict[str, Any] = {}
    if PAPER in sizes:
        steps = [sizes[PAPER]["steps"][name] for name in ("read", "tokenise")]
        found["minutes for 61,135 rows, read and tokenised (goal: <= 3)"] = sum(s["seconds"] for s in steps) / 60
        found["peak GB for 61,135 rows (goal: <= 1.2)"] = max(s["peak_mb"] for s in steps) / 1e3
    for small, large in itertools.pairwise(sizes):
        ratios = {
            step: sizes[large]["steps"][step]["anonymous_mb"] / sizes[small]["steps"][step]["anonymous_mb"]
            for step in TITLES
        }
        found[f"largest growth of a step's memory from {small} to {large} rows (goal: <= 1.2)"] = max(ratios.values())
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the report as tables."""
    sizes = report["sizes"]
    head = " | ".join(f"{int(size):,} rows" for size in sizes)
    lines = [
        "# Data preparation: speed and memory by the number of rows",
        "",
        "`make bench-data`: real UltraFeedback rows with numbered prompts, two responses each. Memory is the largest",
        "sum of the resident memory of a step's process and all that it starts, imports included; seconds leave",
        "imports out. Tables of tokens are mapped: the system takes the pages of files back when memory is short, so",
        "the goal of flat memory is about the rest.",
        "",
        "![rows per second and peak memory](data.png)",
        "",
    ]
    lines += [f"- {int(size):,} rows: {of['machine']}; `num_proc` {of['num_proc']}" for size, of in sizes.items()]
    for title, name, form in (
        ("rows per second", "rows_per_second", "{:.0f}"),
        ("seconds", "seconds", "{:.1f}"),
        ("peak memory, MB", "peak_mb", "{:.0f}"),
        ("peak memory without pages of files, MB", "anonymous_mb", "{:.0f}"),
    ):
        lines += ["", f"| {title} | {head} |", "| --- |" + " --- |" * len(sizes)]
        for step, what in TITLES.items():
            cells = " | ".join(form.format(of["steps"][step][name]) for of in sizes.values())
            lines.append(f"| {what} | {cells} |")
    lines += ["", "| goal | measured |", "| --- | --- |"]
    lines += [f"| {what} | {value:.2f} |" for what, value in report["goals"].items()]
    return "\n".join(lines) + "\n"


def draw(sizes: dict[str, Any], path: Path) -> None:
    """Draw rows per second and peak memory of every step over the number of rows."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    rows = [int(size) for size in sizes]
    panels = figure.subplots(1, 2)
    for panel, (name, title) in zip(
        panels,
        (("rows_per_second", "rows per second"), ("anonymous_mb", "peak memory without pages of files, MB")),
        strict=True,
    ):
        for step in TITLES:
            values = [of["steps"][step][name] for of in sizes.values()]
            panel.plot(rows, values, "o-", label=step)
        panel.set_xscale("log")
        panel.set_xticks(rows, [f"{n:,}" for n in rows])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("rows")
        panel.set_title(title, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    panels[1].legend(frameon=False, ncols=2)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, format=path.suffix[1:])

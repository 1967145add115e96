"""Draws the picture of README and home page from the tables of the likelihood study: `python docs/hooks/draw_...`.

The numbers are read from the page, so that picture and page cannot disagree.
"""

import re
from pathlib import Path

from matplotlib.figure import Figure

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "science/likelihood_study.md"
PICTURE = DOCS / "assets/chosen_likelihood.png"
RUNS = {
    "dpo": ("DPO", "#d55e00"),
    "rao": ("RAO, log_z0: auto", "#0072b2"),
    "rao_margin_plus10": ("RAO, margin: 10", "#56b4e9"),
}
SECTIONS = {
    "## Real preference pairs": "UltraFeedback pairs\n44 held-out prompts",
    "## Up to eleven rated responses per prompt": "Rated responses, up to 11 a prompt\n31 held-out prompts",
    "## Sampled responses": "Sampled responses, 4 a prompt\n13 held-out prompts",
}


def shares(section: str) -> dict[str, tuple[int, int, int]]:
    """Return the share of held-out chosen responses that became less likely, with its interval, in percent, by run."""
    text = PAGE.read_text().split(section)[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    found = {row[0].strip("`"): re.fullmatch(r"(\d+)% \[(\d+)%, (\d+)%\]", row[8]) for row in rows}
    return {run: tuple(map(int, match.groups())) for run, match in found.items() if match}  # type: ignore[misc]


def draw(path: Path = PICTURE) -> None:
    """Write the picture to `path`."""
    figure = Figure(figsize=(10, 3.1), layout="constrained")
    axes = figure.subplots(1, len(SECTIONS), sharex=True, sharey=True)
    for ax, (section, title) in zip(axes, SECTIONS.items(), strict=True):
        of_run = shares(section)
        for y, (run, (_, color)) in enumerate(RUNS.items()):
            share, low, high = of_run[run]
            ax.errorbar(share, y, xerr=[[share - low], [high - share]], color=color, fmt="o", ms=8, lw=2.5, capsize=4)
            ax.annotate(f"{share} %", (share, y), (0, 9), textcoords="offset points", ha="center", color=color)
        ax.axvline(50, color="#999999", lw=1, ls=":")
        ax.set(title=title, xlim=(0, 100), ylim=(len(RUNS) - 0.5, -0.6))
        ax.set_yticks(range(len(RUNS)), [label for label, _ in RUNS.values()])
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(
        "held-out chosen responses that became less likely in training (%), 95 % intervals; one seed, 135M parameters",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw()

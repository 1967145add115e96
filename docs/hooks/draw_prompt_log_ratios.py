"""Draws D_i over the steps of runs of RAO: `python docs/hooks/draw_prompt_log_ratios.py TITLE=DATA_ROOT ...`.

Each data root is that of one run of RAO with one or more seeds; the picture stands in docs/science/log_z0.md.
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

PICTURE = Path(__file__).parents[1] / "assets/prompt_log_ratios.png"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


def draw(roots: dict[str, Path], path: Path = PICTURE) -> None:
    """Write the picture to `path`: a panel each, the mean over seeds and the range of the seeds."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, len(roots), sharex=True, sharey=True, squeeze=False)[0]
    for ax, color, (title, root) in zip(axes, COLORS, roots.items(), strict=False):
        logs = [pd.read_csv(file) for file in sorted((root / "07_model_output").glob("rao*_training_log.csv"))]
        steps = pd.concat(logs).dropna(subset=["prompt_log_ratio"]).groupby("step")["prompt_log_ratio"]
        ax.fill_between(steps.min().index, steps.min(), steps.max(), color=color, alpha=0.2, lw=0)
        ax.plot(steps.mean(), color=color, lw=2)
        ax.axhline(0, color="#999999", lw=1, ls=":")
        ax.set(title=title)
        ax.title.set_fontsize(10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("D_i (nats), mean of a step's prompts")
    figure.supxlabel("optimizer step; line: mean of the seeds, band: their range", fontsize=10)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    draw({title: Path(root) for title, root in (argument.rsplit("=", 1) for argument in sys.argv[1:])})

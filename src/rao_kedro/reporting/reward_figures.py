"""Figure of the rewards: their distribution, their accuracy, and the targets of RAO that they imply."""

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from rao_kedro.plotting import apply_style
from rao_kedro.rewards.annotation import recorded_transforms

CHOSEN, REJECTED = "#0072b2", "#d55e00"
PARTS = {"train": CHOSEN, "validation": "#009e73", "test": "#cc79a7"}
MAX_POINTS = 2000
BINS = 30
TITLES = (
    "Rewards",
    "Reward of chosen less rejected",
    "Accuracy of pairs by the gap of their rewards",
    "Reward and length (tokens)",
    "Share of chosen responses that RAO raises, P(r_w > beta log_z0)",
)


def reward_calibration(reward_annotated: pd.DataFrame, by_gap: pd.DataFrame, grid: pd.DataFrame) -> go.Figure:
    """Return five panels on the rewards of all groups, and a sixth if transforms made them from raw rewards.

    Args:
        reward_annotated: Table of `rewards.annotation.read_rewards`.
        by_gap: Table of `rewards.reliability.accuracy_by_gap`.
        grid: Table of `rewards.reliability.target_grid`; the solution of `log_z0: auto` is written beside it.
    """
    steps = [step["name"] for step in recorded_transforms(reward_annotated)]
    titles = (*TITLES, f"Raw rewards and rewards to train with: {', '.join(steps)}")[: 5 + bool(steps)]
    rows = 3 + bool(steps)
    specs = [[{}, {}], [{}, {}], [{"colspan": 2}, None], [{"colspan": 2}, None]][:rows]
    figure = make_subplots(rows, 2, specs=specs, subplot_titles=titles, vertical_spacing=0.33 / rows)
    chosen, rejected = (
        np.array([r[i] for r, i in zip(reward_annotated["rewards"], reward_annotated[role], strict=True)])
        for role in ("chosen", "rejected")
    )
    edges = np.histogram_bin_edges(np.concatenate([chosen, rejected]), BINS)
    for values, name, color in ((chosen, "chosen", CHOSEN), (rejected, "rejected", REJECTED)):
        figure.add_trace(_histogram(values, edges, name=name, marker_color=color, opacity=0.6), 1, 1)
    gaps = chosen - rejected
    edges = np.histogram_bin_edges(gaps, BINS)
    figure.add_trace(_histogram(gaps, edges, marker_color="#7f7f7f", showlegend=False), 1, 2)
    figure.add_vline(x=0, line={"color": "black", "width": 1, "dash": "dot"}, row=1, col=2)
    _draw_accuracy(figure, by_gap)
    _draw_points(figure, reward_annotated, "response_lengths", "tokens", (2, 2))
    _draw_grid(figure, grid)
    if steps:
        _draw_points(figure, reward_annotated, "raw_rewards", "raw reward", (4, 1))
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(title_text="reward", row=1, col=1)
    figure.update_xaxes(title_text="difference of rewards", row=1, col=2)
    figure.update_yaxes(title_text="prompt groups", row=1)
    return apply_style(figure, f"Rewards of {len(reward_annotated)} prompt groups", height=350 * rows)


def _histogram(values: NDArray[Any], edges: NDArray[Any], **style: Any) -> go.Bar:
    """Return counts as bars: a figure with every value would grow with the data."""
    counts, _ = np.histogram(values, edges)
    return go.Bar(x=(edges[:-1] + edges[1:]) / 2, y=counts, width=np.diff(edges), marker_line_width=0, **style)


def _draw_accuracy(figure: go.Figure, by_gap: pd.DataFrame) -> None:
    for split, rows in by_gap.groupby("split", sort=False):
        intervals = {"array": rows["high"] - rows["accuracy"], "arrayminus": rows["accuracy"] - rows["low"]}
        trace = go.Scatter(
            x=rows["gap_mean"],
            y=rows["accuracy"],
            error_y=intervals,
            mode="lines+markers",
            name=f"pairs of {split}",
            line_color=PARTS[str(split)],
        )
        figure.add_trace(trace, 2, 1)
    figure.add_hline(y=0.5, line={"color": "black", "width": 1, "dash": "dot"}, row=2, col=1)
    figure.update_xaxes(title_text="mean gap, reward", row=2, col=1)
    figure.update_yaxes(title_text="accuracy, 95 % interval", row=2, col=1)


def _draw_points(
    figure: go.Figure, reward_annotated: pd.DataFrame, column: str, title: str, at: tuple[int, int]
) -> None:
    """Draw rewards over another column of lists; `at` is the panel's row and column."""
    rewards, others = (np.concatenate(list(reward_annotated[name])) for name in ("rewards", column))
    shown = np.random.default_rng(0).permutation(len(rewards))[:MAX_POINTS]
    marker = {"color": "#7f7f7f", "size": 5, "opacity": 0.4}
    trace = go.Scatter(x=others[shown], y=rewards[shown], mode="markers", marker=marker, showlegend=False)
    figure.add_trace(trace, *at)
    figure.update_xaxes(title_text=title, row=at[0], col=at[1])
    figure.update_yaxes(title_text="reward", row=at[0], col=at[1])


def _draw_grid(figure: go.Figure, grid: pd.DataFrame) -> None:
    shares = grid[~grid["suggested"]].pivot(index="beta", columns="log_z0", values="chosen_target_is_up")
    suggested = grid[grid["suggested"]].set_index("beta")["log_z0"]
    heatmap = go.Heatmap(
        x=[f"{value:g}" for value in shares.columns],
        y=[f"beta {beta:g} (auto: {suggested[beta]:.3g} nats)" for beta in shares.index],
        z=shares.to_numpy(),
        zmin=0,
        zmax=1,
        colorscale="RdBu",
        texttemplate="%{z:.0%}",
        showscale=False,
    )
    figure.add_trace(heatmap, 3, 1)
    figure.update_xaxes(title_text="log_z0, nats", type="category", row=3, col=1)

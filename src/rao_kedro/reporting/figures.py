"""Plotly figures of training runs, rewards and scores."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from rao_kedro.config.run_names import method_of, split_round
from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.plotting import apply_style, assign_colors, error_bars

STUDY_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b"]

DRIFT = "prompt_log_ratio"

# Panels of a training run: title with unit, and the columns that are drawn in it with their names and dashes.
PANELS = [
    ("Loss", [("loss", "", "solid")]),
    ("Margin (implicit reward)", [("margin", "", "solid")]),
    ("Log-ratio (nats)", [("log_ratio_chosen", "chosen", "solid"), ("log_ratio_rejected", "rejected", "dot")]),
    ("Implicit reward", [("rewards_chosen", "chosen", "solid"), ("rewards_rejected", "rejected", "dot")]),
    ("Accuracy", [("accuracy", "", "solid")]),
    ("Prompt log-ratio D = log Z - log_z0 (nats)", [(DRIFT, "", "solid")]),
    ("Gradient norm", [("grad_norm", "", "solid")]),
]


def training_dynamics(logs: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Return the figure of training: a panel per quantity in the logs, a colour per method.

    Lines are training steps; the runs of a method after its first seed are paler. Markers are evaluations on validation
    groups.

    Args:
        logs: Training logs by run (`config.run_names`).
    """
    columns = {str(column).removeprefix("eval_") for log in logs.values() for column in log.columns}
    panels = [panel for panel in PANELS if any(column in columns for column, _, _ in panel[1])]
    rows = -(-len(panels) // 2)
    titles = [title + (_log_z0s(logs) if curves[0][0] == DRIFT else "") for title, curves in panels]
    figure = make_subplots(rows, 2, subplot_titles=titles, vertical_spacing=0.24 / rows, horizontal_spacing=0.1)
    colors = assign_colors(map(method_of, logs))
    for i, (_, curves) in enumerate(panels):
        row, column = i // 2 + 1, i % 2 + 1
        for run, log in logs.items():
            color = colors[method_of(run)]
            for name, part, dash in curves:
                for trace in _curves(run, color, log, name, part, dash, legend=i == 0 and run == method_of(run)):
                    figure.add_trace(trace, row, column)
    figure.update_xaxes(matches="x")
    figure.update_xaxes(title_text="optimizer step", row=rows)
    dashes = "; solid: chosen, dotted: rejected" if "log_ratio_rejected" in columns else ""
    paler = "; paler: further seeds" if len(set(map(method_of, logs))) < len(logs) else ""
    return apply_style(
        figure, f"Lines: training steps, markers: validation groups{dashes}{paler}", height=90 + 270 * rows
    )


def _log_z0s(logs: Mapping[str, pd.DataFrame]) -> str:
    """Return log_z0 of the first run of each method that has one, for the title of a panel."""
    columns, found = ["log_z", DRIFT], dict[str, float]()
    for run, log in logs.items():
        if {*columns} <= {*log} and len(rows := log.dropna(subset=columns)):
            log_z, drift = rows[columns].iloc[0]
            found.setdefault(method_of(run), log_z - drift)
    values = [f"{method} {value:.4g}" if len(logs) > 1 else f"{value:.4g}" for method, value in found.items()]
    return f"; log_z0: {', '.join(values)}" if values else ""


def training_dynamics_of_one(training_log: pd.DataFrame) -> go.Figure:
    """Return `training_dynamics` of a single run."""
    return training_dynamics({"training": training_log})


def likelihood_dynamics(logs: pd.DataFrame, panels: Mapping[str, Sequence[str]]) -> go.Figure:
    """Return the log-ratios of chosen and rejected responses over the training steps, a panel per comparison.

    Args:
        logs: Training logs with a column `run`. Curves are training steps, markers are evaluations on validation
            groups.
        panels: Names of runs by the title of their panel.
    """
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), shared_yaxes=True, horizontal_spacing=0.02)
    for column, runs in enumerate(panels.values(), start=1):
        legend = "legend" if column == 1 else f"legend{column}"
        for i, run in enumerate(runs):
            log, color = logs[logs["run"] == run], STUDY_COLORS[i % len(STUDY_COLORS)]
            for part, dash in (("chosen", "solid"), ("rejected", "dot")):
                for name, mode in ((f"log_ratio_{part}", "lines"), (f"eval_log_ratio_{part}", "markers")):
                    steps = log[log[name].notna()]
                    trace = go.Scatter(
                        x=steps["step"],
                        y=steps[name],
                        mode=mode,
                        name=run,
                        legend=legend,
                        legendgroup=run,
                        showlegend=part == "chosen" and mode == "lines",
                        line={"color": color, "dash": dash, "width": 2},
                        marker={"color": color, "size": 7, "symbol": "circle" if part == "chosen" else "circle-open"},
                    )
                    figure.add_trace(trace, 1, column)
    figure.update_xaxes(title_text="optimizer step")
    figure.update_yaxes(title_text="log-ratio to the reference, nats", col=1)
    title = "Lines: training steps, markers: validation groups; solid and filled: chosen, dotted and open: rejected"
    figure = apply_style(figure, title, height=560)
    for column in range(1, len(panels) + 1):
        axis = figure.layout["xaxis" if column == 1 else f"xaxis{column}"]
        place = {"orientation": "v", "yref": "paper", "y": 0.01, "yanchor": "bottom", "xanchor": "left"}
        place |= {"x": axis.domain[0] + 0.005, "bgcolor": "rgba(255,255,255,0.7)", "font": {"size": 11}}
        figure.update_layout({"legend" if column == 1 else f"legend{column}": place})
    return figure


def reward_model_accuracies(study: pd.DataFrame) -> go.Figure:
    """Return held-out accuracy and loss per form and size of a reward model, with 95 % intervals.

    Args:
        study: Table that `evals.reward_accuracy.accuracy_table` returns.
    """
    study = study.fillna({"size": ""})  # of the length-only baseline; a CSV file gives it back as missing
    panels = [("accuracy", "Held-out accuracy"), ("loss", "Held-out loss (nats)")]
    figure = make_subplots(1, 2, subplot_titles=[title for _, title in panels], horizontal_spacing=0.1)
    colors = dict(zip(study["size"].unique(), STUDY_COLORS, strict=False))
    for column, (name, _) in enumerate(panels, start=1):
        shown = study[study[name].notna()]
        for size, rows in shown.groupby("size", sort=False):
            label = f"{size!s}: {rows['train_groups'].iloc[0]} groups" if size else "no training"
            figure.add_trace(
                go.Scatter(
                    x=rows["form"],
                    y=rows[name],
                    error_y=error_bars(rows[f"{name}_high"] - rows[name], rows[name] - rows[f"{name}_low"]),
                    mode="markers",
                    name=label,
                    legendgroup=label,
                    showlegend=column == 1,
                    marker={"size": 11, "color": colors[size]},
                ),
                1,
                column,
            )
        low, high = shown[f"{name}_low"].min(), shown[f"{name}_high"].max()
        figure.update_yaxes(range=[low - 0.05, high + 0.05], row=1, col=column)
    figure.update_layout(scattermode="group", scattergap=0.5)
    return apply_style(figure, f"{int(study['n'].max())} held-out groups, 95 % intervals", height=420)


def scores_by_method(leaderboard: pd.DataFrame) -> go.Figure:
    """Return rule score, reward and win rate per method, with 95 % intervals.

    Args:
        leaderboard: Table of `LeaderboardTable`.
    """
    judge = str(leaderboard["judge"].iloc[0]).replace("_", " ")
    panels = [("rule_score", "Rule score"), ("reward", "Reward")]
    panels = [*panels, ("win_rate_vs_sft", f"Win rate against SFT by {judge}")]
    panels = [panel for panel in panels if leaderboard[panel[0]].notna().any()] or panels
    colors = _colors_by_method(leaderboard)
    figure = make_subplots(1, len(panels), subplot_titles=[title for _, title in panels])
    seeds = int(leaderboard["seeds"].max())
    for column, (name, _) in enumerate(panels, start=1):
        for row in leaderboard.to_dict("records"):
            color = colors[row["method"]]
            figure.add_trace(_point(row, name, "", "circle", color), 1, column)
            if not pd.isna(row[f"{name}_seeds_low"]):
                figure.add_trace(_point(row, name, "_seeds", "diamond-open", color), 1, column)
        ends = leaderboard[[name, *(f"{name}{over}_{end}" for over in ("", "_seeds") for end in ("low", "high"))]]
        low, high = ends.min().min(), ends.max().max()
        margin = 0.06 * (high - low) or 0.1
        if not pd.isna(margin):
            figure.update_yaxes(range=[low - margin, high + margin], row=1, col=column)
    title = f"Means over {int(leaderboard['n'].max())} held-out prompts with 95 % intervals over prompts"
    if seeds > 1:
        title += f"; diamonds: 95 % intervals over up to {seeds} training seeds"
        figure.update_layout(scattermode="group", scattergap=0.6)
    return apply_style(figure, title, height=420)


# Panels over rounds: columns of `LeaderboardTable`, with their titles. The first ones have intervals.
OVER_ROUNDS = [
    ("rule_score", "Rule score"),
    ("reward", "Reward"),
    ("kl_to_reference", "KL to SFT (nats per response)"),
    ("mean_length", "Length (tokens)"),
]


def scores_by_round(leaderboard: pd.DataFrame, last: Mapping[str, int]) -> go.Figure:
    """Return score, reward, KL divergence and length of the methods that train in rounds, after each measured round.

    Args:
        leaderboard: Table of `LeaderboardTable`; round 0 is SFT.
        last: Number of the last round of each of these methods.
    """
    panels = [panel for panel in OVER_ROUNDS if leaderboard[panel[0]].notna().any()]
    figure = make_subplots(1, len(panels), subplot_titles=[title for _, title in panels])
    colors = _colors_by_method(leaderboard)
    of_method = {method: dict.fromkeys([BASELINE], 0) for method in last}
    for name in leaderboard["method"]:
        method, round_ = split_round(name)
        if method in last:
            of_method[method][name] = last[method] if round_ is None else round_
    by_name = leaderboard.set_index("method")
    for column, (score, _) in enumerate(panels, start=1):
        for i, (method, rounds) in enumerate(of_method.items()):
            beside = 0.05 * (i - (len(of_method) - 1) / 2)  # so that intervals do not lie on each other
            rows = by_name.loc[sorted(rounds, key=lambda name: rounds[name])]
            bars = {}
            if f"{score}_low" in rows:
                bars["error_y"] = error_bars(rows[f"{score}_high"] - rows[score], rows[score] - rows[f"{score}_low"])
            figure.add_trace(
                go.Scatter(
                    x=[round_ + beside for round_ in sorted(rounds.values())],
                    y=rows[score],
                    mode="lines+markers",
                    name=method,
                    legendgroup=method,
                    showlegend=column == 1,
                    line={"color": colors[method], "width": 2},
                    marker={"size": 8},
                    **bars,
                ),
                1,
                column,
            )
    figure.update_xaxes(title_text="round", dtick=1)
    title = f"After each round, on {int(leaderboard['n'].max())} held-out prompts; bars: 95 % intervals over prompts"
    return apply_style(figure, title, height=420)


def _colors_by_method(leaderboard: pd.DataFrame) -> dict[str, str]:
    """Return a colour per row of `LeaderboardTable`; all rounds of a method have the same."""
    methods = {name: split_round(name)[0] for name in leaderboard["method"]}
    colors = assign_colors(methods.values())
    return {name: colors[method] for name, method in methods.items()} | colors


def _point(row: Mapping[Hashable, Any], name: str, over: str, symbol: str, color: str) -> go.Scatter:
    point = row[name]
    return go.Scatter(
        x=[row["method"]],
        y=[point],
        error_y=error_bars([row[f"{name}{over}_high"] - point], [point - row[f"{name}{over}_low"]]),
        mode="markers",
        marker={"size": 11, "color": color, "symbol": symbol},
        offsetgroup=over or "_prompts",
        showlegend=False,
    )


def _curves(run: str, color: str, log: pd.DataFrame, name: str, part: str, dash: str, legend: bool) -> list[go.Scatter]:
    result = []
    shared = {
        "legendgroup": method_of(run),
        "opacity": 1.0 if run == method_of(run) else 0.45,
        "line": {"color": color, "dash": dash, "width": 2},
        "marker": {"color": color, "size": 8},
    }
    if name in log and log[name].notna().any():
        steps = log[log[name].notna()]
        result.append(go.Scatter(x=steps["step"], y=steps[name], mode="lines", name=run, showlegend=legend, **shared))
    if (evaluated := f"eval_{name}") in log and log[evaluated].notna().any():
        points = log[log[evaluated].notna()]
        label = f"{run} {part} validation".replace("  ", " ")
        result.append(
            go.Scatter(x=points["step"], y=points[evaluated], mode="markers", name=label, showlegend=False, **shared)
        )
    return result

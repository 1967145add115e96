"""The figure of the downstream tasks."""

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.evals.benchmark import describe_sample
from rao_kedro.plotting import apply_style, assign_colors, error_bars


def accuracy_bars(scores: pd.DataFrame) -> go.Figure:
    """Return the accuracy of each method on the downstream tasks, with chance as a line.

    Args:
        scores: Table of `BenchmarkScoreTable`.
    """
    figure = go.Figure()
    colors = assign_colors(scores["method"])
    table = scores[(scores["metric"] == "accuracy") & ~scores["benchmark"].str.contains("::")]
    for method, rows in table.groupby("method", sort=False):
        figure.add_trace(
            go.Bar(
                x=rows["benchmark"],
                y=rows["value"],
                error_y=error_bars(rows["high"] - rows["value"], rows["value"] - rows["low"]),
                name=str(method),
                marker={"color": colors[str(method)]},
            )
        )
    chance = table.drop_duplicates("benchmark")
    line = {"symbol": "line-ew-open", "size": 40, "line": {"width": 2}, "color": "#333333"}
    if len(chance):
        figure.add_trace(
            go.Scatter(x=chance["benchmark"], y=chance["chance"], mode="markers", name="chance", marker=line)
        )
    figure.update_layout(barmode="group")
    figure.update_yaxes(title_text="accuracy (%)", rangemode="tozero")
    return apply_style(figure, f"Downstream tasks{describe_sample(table)}", height=440)

"""Plotly figures of methods on benchmarks, from tables of `BenchmarkScoreTable`."""

import pandas as pd
import plotly.graph_objects as go

from rao_kedro.reporting.figures import colors_of, interval_bars, styled


def win_rate_against_length(scores: pd.DataFrame) -> go.Figure:
    """Return AlpacaEval's win rates over the length of the outputs, raw and length-controlled."""
    figure = go.Figure()
    table = scores[scores["benchmark"] == "alpaca_eval"].set_index(["method", "metric"])
    methods, colors = list(dict.fromkeys(table.index.get_level_values("method"))), colors_of(scores["method"])
    for metric, symbol, label in (
        ("win_rate", "circle", "win rate"),
        ("length_controlled_win_rate", "diamond-open", "length-controlled"),
    ):
        for method in methods:
            if (method, metric) not in table.index:
                continue
            row, length = table.loc[(method, metric)], table.loc[(method, "mean_length"), "value"]
            figure.add_trace(
                go.Scatter(
                    x=[length],
                    y=[row["value"]],
                    error_y=interval_bars([row["high"] - row["value"]], [row["value"] - row["low"]]),
                    mode="markers",
                    name=f"{method}, {label}",
                    marker={"size": 11, "symbol": symbol, "color": colors[method]},
                )
            )
    figure.update_xaxes(title_text="characters of an output, mean")
    figure.update_yaxes(title_text="preferred over the baseline (%)", rangemode="tozero")
    figure = styled(figure, f"AlpacaEval 2{_about(table)}", height=440)
    beside = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yref": "paper"}  # the title names the judge
    return figure.update_layout(legend=beside)


def mt_bench_radar(scores: pd.DataFrame) -> go.Figure:
    """Return MT-Bench's scores by category, a line for each method."""
    figure = go.Figure()
    table = scores[scores["benchmark"] == "mt_bench"]
    colors = colors_of(scores["method"])
    by_category = table[table["metric"].str.startswith("score_") & ~table["metric"].str.startswith("score_turn")]
    for method, rows in by_category.groupby("method", sort=False):
        categories, values = rows["metric"].str.removeprefix("score_").tolist(), rows["value"].tolist()
        figure.add_trace(
            go.Scatterpolar(
                r=[*values, values[0]],
                theta=[*categories, categories[0]],
                name=str(method),
                line={"color": colors[str(method)], "width": 2},
            )
        )
    figure.update_polars(radialaxis={"range": [0, 10], "angle": 90, "tickangle": 90})
    title = f"MT-Bench, mean score by category{_about(table)}".replace("; 95 % intervals", "")  # the table has them
    return styled(figure, title, height=480)


def accuracy_bars(scores: pd.DataFrame) -> go.Figure:
    """Return the accuracy of each method on the downstream tasks, with chance as a line."""
    figure = go.Figure()
    colors = colors_of(scores["method"])
    table = scores[(scores["metric"] == "accuracy") & ~scores["benchmark"].str.contains("::")]
    for method, rows in table.groupby("method", sort=False):
        figure.add_trace(
            go.Bar(
                x=rows["benchmark"],
                y=rows["value"],
                error_y=interval_bars(rows["high"] - rows["value"], rows["value"] - rows["low"]),
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
    return styled(figure, f"Downstream tasks{_about(table)}", height=440)


def _about(table: pd.DataFrame) -> str:
    """Return n and the judge, without which no result is shown."""
    if table.empty:
        return ": not chosen"
    judges = sorted(set(table["judge"]) - {""})
    return f" (n up to {int(table['n'].max())}{', judged by ' + ', '.join(judges) if judges else ''}; 95 % intervals)"

"""The look that all figures share: a colour per method, error bars, fonts and margins."""

from collections.abc import Iterable, Sequence

import pandas as pd
import plotly.graph_objects as go

COLORS = {"sft": "#7f7f7f", "rao": "#0072b2", "dpo": "#d55e00"}
OTHER_COLORS = ["#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#17becf", "#bcbd22", "#9467bd"]


def assign_colors(methods: Iterable[str]) -> dict[str, str]:
    """Return a colour per method; a method has the same colour in all figures of one set of methods."""
    others = sorted(set(methods) - set(COLORS))
    return COLORS | {name: OTHER_COLORS[i % len(OTHER_COLORS)] for i, name in enumerate(others)}


def error_bars(above: Sequence[float] | pd.Series, below: Sequence[float] | pd.Series) -> dict[str, object]:
    """Return plotly's error bars.

    Args:
        above: Distances from the points to the upper ends of their intervals.
        below: Distances from the points to the lower ends.
    """
    return {"array": above, "arrayminus": below, "thickness": 2, "width": 8}


def apply_style(figure: go.Figure, title: str, height: int) -> go.Figure:
    """Set title, fonts, margins and legend of a figure; `height` is in pixels."""
    figure.update_layout(
        title={"text": title, "font": {"size": 14}, "x": 0.01, "xanchor": "left"},
        template="plotly_white",
        height=height,
        margin={"l": 70, "r": 30, "t": 80, "b": 60},
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 1 - 30 / height,  # beside the title, below the buttons
            "yanchor": "top",
            "x": 1,
            "xanchor": "right",
        },
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    return figure

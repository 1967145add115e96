"""The methods of the study, each a top-level namespace of the alignment and evaluation pipelines."""

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from typing import Any

from rao_kedro.objectives import objective_names

METHODS = tuple(objective_names())
DEFAULT_METHODS = ("rao", "dpo")  # what the default pipeline shows before parameters are loaded


def of_run(function: Callable[..., Any], run: str) -> Callable[..., Any]:
    """Return a node's function with its argument `run` set.

    A function and not a `functools.partial`, of which kedro-viz shows no code.
    """
    bound = partial(function, run=run)

    @wraps(function)
    def node(*inputs: Any, **named: Any) -> Any:
        return bound(*inputs, **named)

    node.__signature__ = signature(bound)  # type: ignore[attr-defined]
    return node

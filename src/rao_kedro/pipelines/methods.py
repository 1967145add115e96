"""The methods of the study, and their runs, each a top-level namespace of the alignment and evaluation pipelines."""

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from typing import Any

METHODS = (
    "rao",
    "dpo",
    "ipo",
    "simpo",
    "rpo_distill",
    "cal_dpo",
    "dro",
    "slic_hf",
    "orpo",
    "dpop",
    "dpo_shift",
    "kto",
    "kimi_k15",
    "rpo_partition",
    "dgro",
    "ppo",
)

# Objectives that train without the reference log-probs, as their attribute `needs_reference` says too.
WITHOUT_REFERENCE = ("simpo", "slic_hf", "orpo")
# Objectives that learn from their own samples; their value network starts as the reward model.
ON_POLICY = ("ppo",)
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

"""Alignment objectives: pure functions of log-probs and rewards.

Nothing here knows about models, tokens or files. `make_objective`, `objective_names` and `get_requirements` can be
imported without torch; the rest imports torch only.
"""

from typing import TYPE_CHECKING, Any

from rao_kedro.objectives.registry import Requirements, get_requirements, make_objective, objective_names

if TYPE_CHECKING:
    from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput

__all__ = [
    "LogProbBatch",
    "Objective",
    "ObjectiveOutput",
    "Requirements",
    "get_requirements",
    "make_objective",
    "objective_names",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for (PEP 562)."""
    if name in __all__:
        from rao_kedro.objectives import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

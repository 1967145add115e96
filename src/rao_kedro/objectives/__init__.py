"""Alignment objectives: pure functions of log-probabilities and rewards.

Nothing here knows about models, tokens or files. Imports torch only.
"""

from rao_kedro.objectives.base import LogProbBatch, Objective, ObjectiveOutput
from rao_kedro.objectives.registry import make_objective, objective_names

__all__ = ["LogProbBatch", "Objective", "ObjectiveOutput", "make_objective", "objective_names"]

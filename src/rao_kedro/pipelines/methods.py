"""The methods of the study, each a top-level namespace of the alignment and evaluation pipelines."""

from rao_kedro.objectives import objective_names

METHODS = tuple(objective_names())
DEFAULT_METHODS = ("rao", "dpo")  # what the default pipeline shows before parameters are loaded

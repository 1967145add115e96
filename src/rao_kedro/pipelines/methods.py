"""The methods of the study, and their runs, each a top-level namespace of the alignment and evaluation pipelines."""

from collections.abc import Iterable

from rao_kedro.config.runs import method_of
from rao_kedro.errors import ParameterError
from rao_kedro.objectives import objective_names

METHODS = tuple(objective_names())
# What the registry's default pipeline shows before parameters are loaded.
DEFAULT_METHODS = ("rao", "dpo")


def chosen_methods(names: str) -> tuple[str, ...]:
    """Return the methods that the parameter `methods` names, separated by blanks.

    Raises:
        ParameterError: One is unknown, or none is named.
    """
    chosen = tuple(dict.fromkeys(names.split()))
    if unknown := sorted(set(chosen) - set(METHODS)):
        raise ParameterError(f"parameter methods: unknown {', '.join(unknown)}; choose from {' '.join(METHODS)}")
    if not chosen:
        raise ParameterError(f"parameter methods names none; choose from {' '.join(METHODS)}")
    return chosen


def runs_of(methods: Iterable[str], runs: Iterable[str]) -> list[str]:
    """Return those of `runs` that are runs of `methods`: method by method, each with the first seed first."""
    known = [*runs]
    return [run for method in methods for run in known if method_of(run) == method]

"""Objectives by name. A new one is one file and one line here."""

from collections.abc import Callable
from dataclasses import MISSING, fields

from rao_kedro.objectives.base import Objective
from rao_kedro.objectives.dpo import DPO
from rao_kedro.objectives.rao import RAO

_OBJECTIVES: dict[str, type] = {
    "rao": RAO,
    "dpo": DPO,
}


def objective_names() -> list[str]:
    """Return the names that `make_objective` knows."""
    return list(_OBJECTIVES)


def make_objective(name: str, **parameters: object) -> Objective:
    """Build an objective.

    Args:
        name: One of `objective_names()`.
        **parameters: The objective's own parameters; see its class.

    Raises:
        ValueError: The name or a parameter is unknown, or a value is out of range; says what is valid.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(_OBJECTIVES)}")
    make: Callable[..., Objective] = _OBJECTIVES[name]
    defaults = {f.name: f.default for f in fields(_OBJECTIVES[name]) if f.default is not MISSING}
    unknown = sorted(set(parameters) - set(defaults))
    if unknown:
        valid = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
        raise ValueError(f"objective {name!r} has no parameter {', '.join(unknown)}; it takes {valid}")
    return make(**parameters)

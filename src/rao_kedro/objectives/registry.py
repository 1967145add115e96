"""Objectives by name. A new one is one file and one line here."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from rao_kedro.objectives.cal_dpo import CalDPO
from rao_kedro.objectives.dgro import DGRO
from rao_kedro.objectives.dpo import DPO
from rao_kedro.objectives.dpo_shift import DPOShift
from rao_kedro.objectives.dpop import DPOP
from rao_kedro.objectives.dro import DRO
from rao_kedro.objectives.ipo import IPO
from rao_kedro.objectives.kimi_k15 import KimiK15
from rao_kedro.objectives.kto import KTO
from rao_kedro.objectives.orpo import ORPO
from rao_kedro.objectives.ppo import PPO
from rao_kedro.objectives.rao import RAO
from rao_kedro.objectives.rpo_distill import RewardDistillation
from rao_kedro.objectives.rpo_partition import RewardPartitioning
from rao_kedro.objectives.simpo import SimPO
from rao_kedro.objectives.slic_hf import SLiCHF

_OBJECTIVES: dict[str, type] = {
    "rao": RAO,
    "dpo": DPO,
    "ipo": IPO,
    "simpo": SimPO,
    "rpo_distill": RewardDistillation,
    "cal_dpo": CalDPO,
    "dro": DRO,
    "slic_hf": SLiCHF,
    "orpo": ORPO,
    "dpop": DPOP,
    "dpo_shift": DPOShift,
    "kto": KTO,
    "kimi_k15": KimiK15,
    "rpo_partition": RewardPartitioning,
    "dgro": DGRO,
    "ppo": PPO,
}


def objective_names() -> list[str]:
    """Return the names that `make_objective` knows."""
    return list(_OBJECTIVES)


def make_objective(name: str, **parameters: object) -> Any:
    """Build an objective: an `Objective`, or `ppo`, which reads rollouts in place of groups.

    Args:
        name: One of `objective_names()`.
        **parameters: The objective's own parameters; see its class.

    Raises:
        ValueError: The name or a parameter is unknown, or a value is out of range; says what is valid.
    """
    if name not in _OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(_OBJECTIVES)}")
    make: Callable[..., object] = _OBJECTIVES[name]
    # A field's trailing underscore only keeps clear of a Python keyword: the parameter of `lambda_` is `lambda`.
    defaults = {f.name.rstrip("_"): f.default for f in fields(_OBJECTIVES[name]) if f.default is not MISSING}
    unknown = sorted(set(parameters) - set(defaults))
    if unknown:
        valid = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
        raise ValueError(f"objective {name!r} has no parameter {', '.join(unknown)}; it takes {valid}")
    field_names = {f.name.rstrip("_"): f.name for f in fields(_OBJECTIVES[name])}
    return make(**{field_names[key]: value for key, value in parameters.items()})

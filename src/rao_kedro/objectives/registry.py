"""Objectives by name, and what each needs from a run.

A new objective is one file, one line here, and a block of its parameters in `conf/base/parameters/alignment.yml`.

Importing this module does not import torch; `make_objective` does.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from importlib import import_module
from typing import Any, Literal


@dataclass(frozen=True)
class Requirements:
    """What an objective needs from a run, besides log-probs of the policy.

    Attributes:
        reads: The chosen and the rejected response of a prompt (`pairs`), all of its responses (`groups`), or
            responses that the policy samples in training (`rollouts`).
        reference: Log-probs under the reference.
        rewards: Explicit rewards of the responses.
        value_network: A value network, trained with the policy.
        mismatched_pairs: Log-probs of other prompts' responses.
        prompt_logps: Log-probs of the prompt, unless a parameter of the objective switches them off.
        sampling_logps: Log-probs under the policy that sampled the responses.
        on_policy: Responses that the policy itself has just sampled, in rounds; those of the data do not do.
        reference_rewards: Rewards of responses that were sampled from the reference.
    """

    reads: Literal["pairs", "groups", "rollouts"]
    reference: bool = True
    rewards: bool = False
    value_network: bool = False
    mismatched_pairs: bool = False
    prompt_logps: bool = False
    sampling_logps: bool = False
    on_policy: bool = False
    reference_rewards: bool = False


_PAIRS = Requirements("pairs")
_PAIRS_ALONE = Requirements("pairs", reference=False)
_REWARDS = Requirements("groups", rewards=True)

# The module in this package and the class, and what it needs.
_OBJECTIVES: dict[str, tuple[str, Requirements]] = {
    "rao": ("rao.RAO", Requirements("groups", rewards=True, prompt_logps=True)),
    "dpo": ("dpo.DPO", _PAIRS),
    "ipo": ("ipo.IPO", _PAIRS),
    "simpo": ("simpo.SimPO", _PAIRS_ALONE),
    "rpo_distill": ("rpo_distill.RewardDistillation", _REWARDS),
    "cal_dpo": ("cal_dpo.CalDPO", _PAIRS),
    "dro": ("dro.DRO", Requirements("groups", rewards=True, value_network=True)),
    "slic_hf": ("slic_hf.SLiCHF", _PAIRS_ALONE),
    "orpo": ("orpo.ORPO", _PAIRS_ALONE),
    "dpop": ("dpop.DPOP", _PAIRS),
    "dpo_shift": ("dpo_shift.DPOShift", _PAIRS),
    "kto": ("kto.KTO", Requirements("pairs", mismatched_pairs=True)),
    "kimi_k15": ("kimi_k15.KimiK15", _REWARDS),
    "rpo_partition": ("rpo_partition.RewardPartitioning", _REWARDS),
    "dgro": ("dgro.DGRO", _REWARDS),
    "rloo": ("rloo.RLOO", Requirements("groups", rewards=True, sampling_logps=True, on_policy=True)),
    "raft": ("raft.RAFT", Requirements("groups", reference=False, rewards=True)),
    "qrpo": ("qrpo.QRPO", Requirements("groups", rewards=True, reference_rewards=True)),
    "rebel": ("rebel.REBEL", _REWARDS),
    "ppo": ("ppo.PPO", Requirements("rollouts", rewards=True, value_network=True)),
}


def objective_names() -> list[str]:
    """Return the names that `make_objective` knows."""
    return list(_OBJECTIVES)


def get_requirements(name: str, parameters: Mapping[str, object] | None = None) -> Requirements:
    """Return what an objective needs from a run.

    Args:
        name: One of `objective_names()`.
        parameters: The objective's own parameters; RAO's `log_z0: estimated` needs reference rewards.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    found = _look_up(name)[1]
    estimates = (parameters or {}).get("log_z0") == "estimated"
    return replace(found, reference_rewards=True) if estimates else found


def make_objective(name: str, **parameters: object) -> Any:
    """Build an objective.

    Args:
        name: One of `objective_names()`.
        **parameters: The objective's own parameters; see its class.

    Returns:
        An `Objective`; for `ppo` a `PPO`, which reads rollouts instead of groups.

    Raises:
        ValueError: The name or a parameter is unknown, or a value is out of range; the message says what is valid.
    """
    module, class_name = _look_up(name)[0].split(".")
    objective = getattr(import_module(f"rao_kedro.objectives.{module}"), class_name)
    # A field's trailing underscore avoids a Python keyword: the parameter of `lambda_` is `lambda`.
    known = {f.name.rstrip("_"): f for f in fields(objective) if f.init}
    defaults = {name: f.default for name, f in known.items() if f.default is not MISSING}
    if unknown := sorted(set(parameters) - set(known)):
        valid = ", ".join(f"{key}={value!r}" for key, value in defaults.items())
        raise ValueError(f"objective {name!r} has no parameter {', '.join(unknown)}; it takes {valid}")
    return objective(**{known[key].name: value for key, value in parameters.items()})


def _look_up(name: str) -> tuple[str, Requirements]:
    if name not in _OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}: choose one of {', '.join(_OBJECTIVES)}")
    return _OBJECTIVES[name]

"""Rewards by name. A new reward is one file and one line here."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.errors import ParameterError
from rao_kedro.rewards.base import Reward

# Imported on first use: rules need neither torch nor a server.
_REWARDS = {
    "bradley_terry": "bradley_terry:BradleyTerry",
    "implicit": "implicit:ImplicitReward",
    "generative": "generative:GenerativeReward",
    "rules": "rules:Rules",
    "combined": "combined:CombinedReward",
    "ratings": "ratings:Ratings",
}


def reward_names() -> list[str]:
    """Return the names that `make_reward` knows."""
    return list(_REWARDS)


def make_reward(name: str, **parameters: Any) -> Reward:
    """Build a reward.

    Args:
        name: One of `reward_names()`.
        **parameters: The reward's own parameters; see its class.

    Raises:
        ParameterError: The name or a parameter is unknown, one is missing, or a value is out of range.
    """
    reward = _class(name)
    try:
        inspect.signature(reward).bind(**parameters)
    except TypeError as error:
        raise ParameterError(f"reward {name!r}: {error}; it takes {inspect.signature(reward)}") from None
    return reward(**parameters)


def build_reward(reward: RewardParameters) -> Reward:
    """Build the reward that a pipeline's parameters name. The parts of a combined reward get the defaults too.

    Raises:
        ParameterError: See `make_reward`.
    """
    return make_reward(reward.name, **_with_defaults(reward.name, reward.parameters, reward.defaults))


def _with_defaults(name: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    taken = inspect.signature(_class(name)).parameters
    filled = {key: value for key, value in defaults.items() if key in taken} | dict(parameters)
    if name == "combined":
        filled["parts"] = [
            {**part, "parameters": _with_defaults(part.get("name", ""), part.get("parameters", {}), defaults)}
            for part in filled.get("parts", [])
        ]
    return filled


def _class(name: str) -> type[Reward]:
    if name not in _REWARDS:
        raise ParameterError(f"unknown reward {name!r}: choose one of {', '.join(_REWARDS)}")
    module, _, attribute = _REWARDS[name].partition(":")
    return getattr(importlib.import_module(f"rao_kedro.rewards.{module}"), attribute)

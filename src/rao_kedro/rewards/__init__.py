"""Rewards of responses: trained, implicit, generative, rule-based and combined, behind one interface."""

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.rewards.base import Reward, Scores
from rao_kedro.rewards.registry import make_reward, reward_names

__all__ = ["PromptGroup", "Reward", "Scores", "make_reward", "reward_names"]

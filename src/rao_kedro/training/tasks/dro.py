"""Offline alignment with a value network, trained with the policy (DRO)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from rao_kedro.models.loading import load_causal_lm, new_reward_model, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.value_head import PolicyAndValue, ValueNetwork, pack_prompts
from rao_kedro.objectives import LogProbBatch
from rao_kedro.training.options import disable_dropout
from rao_kedro.training.task import Outputs
from rao_kedro.training.tasks.offline import OfflineAlignment


class DROAlignment(OfflineAlignment):
    """Trains the policy and V(x) together; publishes the policy alone."""

    def load(self) -> nn.Module:
        """Return policy and value network, both from the SFT model. V starts at the mean training reward."""
        policy = LogProbModel(disable_dropout(load_causal_lm(self.spec.model_dir, for_engine=True)))
        value = disable_dropout(new_reward_model(self.spec.model_dir, for_engine=True))
        start = fmean(fmean(group.rewards or []) for group in self.train_groups)
        return PolicyAndValue(policy, ValueNetwork(value, start))

    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return the policy's log-probs of the responses, `[G, K]` in nats, and the values of the prompts, `[G]`."""
        packed = pack_groups(pack, self.spec.t0_length).to(device)
        policy, values = module(packed, pack_prompts(pack).to(device))
        return policy.responses, values

    def batch(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LogProbBatch:
        """Return the log-probs, rewards and values of groups."""
        policy, values = outputs
        return replace(super().batch((policy,), groups), values=values)

    def policy_of(self, module: nn.Module) -> LogProbModel:
        """Return the policy inside a module that may be wrapped for training."""
        return super().policy_of(module).policy

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        policy = {k.removeprefix("policy."): v for k, v in weights.items() if k.startswith("policy.")}
        save_checkpoint(module.policy.model, self.tokenizer, directory, policy)

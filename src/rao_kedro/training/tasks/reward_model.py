"""A Bradley-Terry reward model, trained on every pair of differently rated responses of a group."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rao_kedro.config.specs import RewardTrainingSpec
from rao_kedro.data.token_tables import read_groups
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.loading import new_reward_model, save_checkpoint
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import READ_AT, padding_token_id, reward_module
from rao_kedro.training.loop import train
from rao_kedro.training.task import LossOutput, Task
from rao_kedro.workers import worker_main


def bradley_terry(
    rewards: Tensor, ratings: Tensor, mask: Tensor, centering: float, margin: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the loss and the accuracy of rewards, over all pairs with different ratings.

    Bradley and Terry 1952: `-log sigmoid(r_w - r_l - m)` with a margin m that grows with the difference of the ratings
    (Touvron et al. 2023, eq. 2), plus `c (r_w + r_l)^2` (Eisenstein et al. 2023), which fixes the additive constant.
    Mean over a group's pairs, then over groups.

    Args:
        rewards: `[G, K]` predicted rewards.
        ratings: `[G, K]` given ratings; only their order counts, where there is no margin.
        mask: `[G, K]` True where a response exists.
        centering: Weight c.
        margin: m per unit of rating between the two.
    """
    better = (ratings[:, :, None] > ratings[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    margins = rewards[:, :, None] - rewards[:, None, :]
    sums = rewards[:, :, None] + rewards[:, None, :]
    wanted = margin * (ratings[:, :, None] - ratings[:, None, :])
    losses = -F.logsigmoid(margins - wanted) + centering * sums.square()
    per_group = better.sum((1, 2)).clamp(min=1)
    loss = ((losses * better).sum((1, 2)) / per_group).mean()
    accuracy = (((margins > 0) & better).sum((1, 2)) / per_group).mean()
    return loss, accuracy


class RewardModeling(Task):
    """Learns to order the responses of a group as their ratings do."""

    selection_metric = "accuracy"
    greater_is_better = True

    def __init__(self, spec: RewardTrainingSpec) -> None:
        """Read the groups that the spec names; groups without two different ratings teach nothing and are left out."""
        self.spec = spec
        chat = load_chat_format(spec.model_dir)
        self.tokenizer, self.end_of_turn_ids = chat.tokenizer, list(chat.end_of_turn_ids)
        self.tokenizer.pad_token_id = padding_token_id(self.tokenizer, self.end_of_turn_ids)
        self.train_groups, self.eval_groups = (
            [g for g in read_groups(spec.groups_path, split, "ratings") if len(set(g.rewards or [])) > 1]
            for split in ("train", "validation")
        )

    def load(self) -> nn.Module:
        """Return the classifier that training starts from; a causal LM gets a new scalar head.

        What it started from may have been read elsewhere; responses of the groups end with their end-of-turn token.
        """
        model = new_reward_model(self.spec.model_dir, for_engine=True)
        model.config.pad_token_id = self.tokenizer.pad_token_id
        model.config.eos_token_id = self.end_of_turn_ids  # a classifier has no generation_config.json to say them
        setattr(model.config, READ_AT, "end_of_turn")
        return reward_module(model)

    def weigh(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count groups."""
        return float(len(groups))

    def loss(self, module: nn.Module, groups: Sequence[TokenizedGroup], device: torch.device) -> LossOutput:
        """Return the Bradley-Terry loss, in nats."""
        batch = pack_groups(groups, self.spec.t0_length).to(device)
        rewards = module(batch)
        ratings = torch.zeros_like(rewards)
        for row, group in zip(ratings, groups, strict=True):
            row[: len(group.response_ids)] = torch.tensor(group.rewards)
        loss, accuracy = bradley_terry(rewards, ratings, batch.mask, self.spec.centering, self.spec.margin)
        mean = rewards.detach().sum() / batch.mask.sum()
        return LossOutput(loss, {"accuracy": accuracy, "reward_mean": mean})

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the reward model as a plain sequence classifier."""
        save_checkpoint(module.model, self.tokenizer, directory, weights)


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = RewardTrainingSpec.model_validate_json(Path(spec_path).read_text())
    train(RewardModeling(spec), spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

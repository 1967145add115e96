"""Trains a Bradley-Terry reward model on every pair of differently rated responses of a group."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rao_kedro.config.specs import RewardTrainingSpec
from rao_kedro.data.token_tables import read_groups
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.loading import new_reward_model, save_checkpoint
from rao_kedro.models.packing import TokenizedGroup, pack_groups, response_lengths
from rao_kedro.models.reward_head import READ_AT, padding_token_id, reward_module
from rao_kedro.objectives.bradley_terry import bradley_terry_loss
from rao_kedro.training.loop import train
from rao_kedro.training.task import LossOutput, Outputs, Task
from rao_kedro.workers import worker_main


class RewardModeling(Task):
    """Learns to order the responses of a group as their ratings do."""

    selection_metric = "accuracy"
    greater_is_better = True

    def __init__(self, spec: RewardTrainingSpec) -> None:
        """Read the groups that the spec names, without those whose ratings are all equal: they have no pairs."""
        self.spec = spec
        chat = load_chat_format(spec.model_dir)
        self.tokenizer, self.end_of_turn_ids = chat.tokenizer, list(chat.end_of_turn_ids)
        self.tokenizer.pad_token_id = padding_token_id(self.tokenizer, self.end_of_turn_ids)
        self.train_groups, self.eval_groups = (
            read_groups(spec.groups_path, split, ["ratings"]).where(lambda group: len(set(group.ratings or [])) > 1)
            for split in ("train", "validation")
        )

    def load(self) -> nn.Module:
        """Return the classifier that training starts from; a causal LM gets a new scalar head.

        It will be read at the end-of-turn token, with which the responses of the groups end, wherever the model that it
        starts from was read.
        """
        model = new_reward_model(self.spec.model_dir, for_engine=True)
        model.config.pad_token_id = self.tokenizer.pad_token_id
        model.config.eos_token_id = self.end_of_turn_ids  # a classifier has no generation_config.json
        setattr(model.config, READ_AT, "end_of_turn")
        return reward_module(model)

    def count_units(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count groups."""
        return float(len(groups))

    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return the rewards of the responses, `[G, K]`."""
        return (module(pack_groups(pack, self.spec.t0_length).to(device)),)

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the Bradley-Terry loss, in nats."""
        (rewards,) = outputs
        mask = (response_lengths(groups) > 0).to(rewards.device)
        ratings = torch.zeros_like(rewards)
        for row, group in zip(ratings, groups, strict=True):
            row[: len(group.response_ids)] = torch.tensor(group.ratings)
        loss, accuracy = bradley_terry_loss(rewards, ratings, mask, self.spec.centering, self.spec.margin)
        mean = rewards.detach().sum() / mask.sum()
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

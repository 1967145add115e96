"""Supervised fine-tuning: token-mean negative log-likelihood of conversations, or of the chosen responses of groups.

Of a conversation, the assistant's turns are learned and the others are only read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rao_kedro.config.specs import TrainingSpec
from rao_kedro.data.token_tables import holds_conversations, read_groups, read_tokenized_conversations
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.training.loop import train
from rao_kedro.training.task import LossOutput, Outputs, Task
from rao_kedro.workers import worker_main


class SupervisedFinetuning(Task):
    """Learns every assistant turn of conversations, or the chosen response of every group."""

    selection_metric = "loss"
    greater_is_better = False

    def __init__(self, spec: TrainingSpec) -> None:
        """Read the conversations or groups that the spec names."""
        self.spec = spec
        self.conversations = holds_conversations(spec.groups_path)
        # A conversation need not begin with t_0, and the log-probs of prompts are not computed.
        self.t0_length = 1 if self.conversations else spec.t0_length
        self.tokenizer = load_tokenizer(spec.model_dir)
        self.train_groups, self.eval_groups = (
            read_tokenized_conversations(spec.groups_path, split)
            if self.conversations
            else read_groups(spec.groups_path, split, responses=1)
            for split in ("train", "validation")
        )

    def load(self) -> nn.Module:
        """Return the policy, wrapped for packed log-probs."""
        return LogProbModel(load_causal_lm(self.spec.model_dir, for_engine=True))

    def count_units(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count learned tokens."""
        return float(sum(group.response_lengths[0] for group in groups))

    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return the log-probs of the responses, `[G, 1]` in nats."""
        return (module(pack_groups(pack, self.t0_length).to(device)).responses,)

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the mean negative log-likelihood per learned token, in nats."""
        (logps,) = outputs
        name = "logps_assistant" if self.conversations else "logps_chosen"
        return LossOutput(-logps.sum() / self.count_units(groups), {name: logps.detach().mean()})

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        save_checkpoint(module.model, self.tokenizer, directory, weights)


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = TrainingSpec.model_validate_json(Path(spec_path).read_text())
    train(SupervisedFinetuning(spec), spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

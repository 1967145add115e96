"""Value networks of prompts (DRO) and of response tokens (PPO), each in one module with the policy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rao_kedro.errors import ModelError
from rao_kedro.models.logprobs import LogProbModel, SequenceLogProbs
from rao_kedro.models.packing import Pack, TokenizedGroup, compute_hidden_states, pack_groups
from rao_kedro.models.reward_head import RewardModel, reward_module, scores


class ValueNetwork(nn.Module):
    """The value of a prompt: a backbone of its own with a linear head."""

    def __init__(self, classifier: PreTrainedModel, start: float) -> None:
        """Wrap a sequence classifier with one label.

        Args:
            classifier: The classifier, whose head is set to 0.
            start: Value V(x) of every prompt before the first update.
        """
        super().__init__()
        head: Any = classifier.get_submodule("score")
        head.weight = nn.Parameter(torch.zeros(1, head.in_features))  # a new one: the old one may be sharded already
        self.head = RewardModel(classifier)
        self.bias = nn.Parameter(torch.tensor([start]))

    def forward(self, prompts: Pack) -> Tensor:
        """Return `[G]` values of prompts that `pack_prompts` packed."""
        return self.head(prompts)[:, 0] + self.bias


class PolicyAndValue(nn.Module):
    """Policy and value network as one module, for one optimizer and one checkpoint."""

    def __init__(self, policy: LogProbModel, value: ValueNetwork) -> None:
        """Hold both networks."""
        super().__init__()
        self.policy, self.value = policy, value
        self._no_split_modules = policy._no_split_modules

    def tie_weights(self) -> None:
        """Tie the policy's input and output embedding again after sharding has replaced them."""
        self.policy.tie_weights()

    def forward(self, groups: Pack, prompts: Pack) -> tuple[SequenceLogProbs, Tensor]:
        """Return the policy's log-probs of responses, and `[G]` values of the prompts."""
        return self.policy(groups), self.value(prompts)


class TokenValues(nn.Module):
    """The value before every response token: the backbone and the head of a sequence classifier."""

    def __init__(self, classifier: PreTrainedModel) -> None:
        """Wrap a sequence classifier with one label, such as the reward model.

        Raises:
            ModelError: The classifier cannot be computed on packed groups, or its head is not linear.
        """
        super().__init__()
        if not isinstance(reward_module(classifier), RewardModel):
            raise ModelError(
                f"{type(classifier).__name__} cannot give a value before every token: it is not a decoder that "
                "supports packed groups, or its head is not linear"
            )
        self.model = classifier

    def forward(self, batch: Pack) -> Tensor:
        """Return `[R]` values, in the order of `batch.response_target`. The head computes in fp32."""
        before = compute_hidden_states(self.model, batch)[batch.response_source]
        return scores(self.model, before)


class PolicyAndTokenValues(nn.Module):
    """PPO's policy and value network as one module, for one optimizer and one checkpoint."""

    def __init__(self, policy: LogProbModel, value: TokenValues) -> None:
        """Hold both networks."""
        super().__init__()
        self.policy, self.value = policy, value
        self._no_split_modules = [*{*(policy._no_split_modules or ()), *(value.model._no_split_modules or ())}]

    def tie_weights(self) -> None:
        """Tie the policy's input and output embedding again after sharding has replaced them."""
        self.policy.tie_weights()

    def forward(self, batch: Pack) -> tuple[Tensor, Tensor]:
        """Return `[R]` log-probs of response tokens in nats, and `[R]` values before them."""
        return self.policy.response_tokens(batch), self.value(batch)


def pack_prompts(groups: Sequence[TokenizedGroup]) -> Pack:
    """Pack prompts without responses: a prompt's last token is packed as its response, at which the head is read."""
    return pack_groups([TokenizedGroup(g.group_id, g.prompt_ids[:-1], [g.prompt_ids[-1:]]) for g in groups])

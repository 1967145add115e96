"""The implicit reward of an aligned policy, `beta (log pi - log pi_ref)` (Rafailov et al. 2023, eq. 5)."""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.errors import ModelError, ParameterError
from rao_kedro.identity import content_hash
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.chat_format import ChatFormat, load_chat_format
from rao_kedro.models.hub import local_checkpoint
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.rewards.base import Reward, Scores
from rao_kedro.rewards.bradley_terry import context_length
from rao_kedro.rewards.tokens import score_tokens
from rao_kedro.scoring.forward import ForwardPass, refuse_constant_rewards, score_logps
from rao_kedro.scoring.placement import place_for_scoring


class ImplicitReward(Reward):
    """Beta times the log-ratio of a response under a policy and its reference."""

    def __init__(
        self,
        *,
        policy_dir: str | Path,
        reference_dir: str | Path,
        beta: float = 0.1,
        mixed_precision: str = "bf16",
        max_tokens_per_batch: int = 4096,
    ) -> None:
        """Set the models and the forward pass.

        Args:
            policy_dir: The aligned policy, a directory or a hub name.
            reference_dir: The model that the policy was aligned from.
            beta: Reward units per nat; the beta of the policy's training.
            mixed_precision: "no", "bf16" or "bf16_weights", as in training.
            max_tokens_per_batch: Tokens of a packed forward pass.

        Raises:
            ParameterError: beta is not positive.
        """
        if beta <= 0:
            raise ParameterError(f"reward 'implicit': beta is {beta}; it must be positive")
        self.policy_dir, self.reference_dir, self.beta = policy_dir, reference_dir, beta
        self.mixed_precision, self.max_tokens_per_batch = mixed_precision, max_tokens_per_batch

    @property
    def identity(self) -> str:
        """Return the content hashes of both models, beta and the precision."""
        hashes = map(content_hash, self._directories)
        return f"{self.beta} log({' / '.join(hashes)}), {self.mixed_precision}"

    @cached_property
    def _directories(self) -> list[Path]:
        return [local_checkpoint(name) for name in (self.policy_dir, self.reference_dir)]

    @cached_property
    def _chat(self) -> ChatFormat:
        chat, other = map(load_chat_format, self._directories)
        own, others = chat.tokenizer, other.tokenizer
        if (own.get_vocab(), own.chat_template) != (others.get_vocab(), others.chat_template):
            raise ModelError(
                f"{self.policy_dir} and {self.reference_dir} have different tokenizers or chat templates, so their "
                "log-probs cannot be compared: set reference_dir to the model that the policy was aligned from"
            )
        return chat

    @cached_property
    def _modules(self) -> list[LogProbModel]:
        dtype = weights_dtype(self.mixed_precision)

        def load(directory: Path) -> LogProbModel:
            return LogProbModel(load_causal_lm(directory, dtype))

        return [place_for_scoring(partial(load, directory), directory, dtype) for directory in self._directories]

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the scores of each group."""
        length = min(context_length(module.model) for module in self._modules)
        return score_tokens(self._chat, groups, length, self.max_tokens_per_batch, self._score)

    def _score(self, groups: list[TokenizedGroup], tokens: int) -> dict[str, list[float]]:
        how = ForwardPass(self.mixed_precision, tokens, t0_length=1)
        policy, reference = (score_logps(module, groups, how) for module in self._modules)
        rewards = {
            name: [self.beta * (a - b) for a, b in zip(policy[name].responses, reference[name].responses, strict=True)]
            for name in policy
        }
        refuse_constant_rewards(groups, [rewards[group.group_id] for group in groups])
        return rewards

"""A trained reward model: any sequence classifier with one label (Bradley and Terry 1952; Ouyang et al. 2022)."""

import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.errors import ParameterError
from rao_kedro.identity import content_hash
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.chat_format import ChatFormat, load_chat_format
from rao_kedro.models.hub import local_checkpoint
from rao_kedro.models.loading import load_reward_model
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.models.reward_head import ReadAt, RewardModel, find_read_at, reward_module
from rao_kedro.models.rotary import rotary_limit
from rao_kedro.rewards.base import Reward, Scores
from rao_kedro.rewards.tokens import score_tokens
from rao_kedro.scoring.forward import ForwardPass, score_rewards
from rao_kedro.scoring.placement import place_for_scoring


class BradleyTerry(Reward):
    """Scores responses with a sequence classifier. Its head computes in fp32, its body in bf16 or fp32."""

    def __init__(
        self,
        *,
        model_dir: str | Path,
        mixed_precision: str = "bf16",
        max_tokens_per_batch: int = 4096,
        max_length: int | None = None,
        read_at: Literal["auto", "template_end", "end_of_turn"] = "auto",
    ) -> None:
        """Set the model and the forward pass.

        Args:
            model_dir: A checkpoint with its tokenizer and chat template: a directory or a hub name.
            mixed_precision: "no", "bf16" or "bf16_weights", as in training.
            max_tokens_per_batch: Tokens of a packed forward pass.
            max_length: Maximum tokens of a prompt and its response; None takes the limit of the configuration.
            read_at: The token whose score is read. "template_end" is the last token that the chat template writes, as
                on model cards and in RewardBench; "end_of_turn" is the response's end-of-turn token. "auto" takes the
                value that this project recorded when it trained the model, and "template_end" for any other model. A
                response that was cut is read at its last token.

        Raises:
            ParameterError: `read_at` is unknown.
        """
        if read_at not in ("auto", "template_end", "end_of_turn"):
            raise ParameterError(
                f"reward 'bradley_terry': read_at is {read_at!r}; it must be auto, template_end or end_of_turn"
            )
        self.model_dir, self.read_at = model_dir, read_at
        self.mixed_precision, self.max_tokens_per_batch = mixed_precision, max_tokens_per_batch
        self.max_length = max_length

    @property
    def identity(self) -> str:
        """Return the model's content hash, the precision, `read_at`, and `max_length` if it is set."""
        options = [self.mixed_precision, f"read at {self._read_at}"]
        options += [f"{self.max_length} tokens"] if self.max_length else []
        return ", ".join([content_hash(self._directory), *options])

    @cached_property
    def _directory(self) -> Path:
        return local_checkpoint(self.model_dir)

    @cached_property
    def _read_at(self) -> ReadAt:
        return find_read_at(self._directory) if self.read_at == "auto" else self.read_at

    @cached_property
    def _chat(self) -> ChatFormat:
        return load_chat_format(self._directory)

    @cached_property
    def _module(self) -> Any:
        dtype = weights_dtype(self.mixed_precision)
        return place_for_scoring(
            lambda: reward_module(load_reward_model(self._directory, dtype)), self._directory, dtype
        )

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the scores of each group."""
        module = self._module
        return score_tokens(
            self._chat,
            groups,
            self.max_length or context_length(module.model),
            self.max_tokens_per_batch,
            self._score,
            read_at=self._read_at,
            padding=module.model.config.get_text_config().pad_token_id if isinstance(module, RewardModel) else None,
        )

    def _score(self, groups: list[TokenizedGroup], tokens: int) -> dict[str, list[float]]:
        return score_rewards(self._module, groups, ForwardPass(self.mixed_precision, tokens, t0_length=1))


def context_length(model: Any) -> int:
    """Return the tokens that a model of transformers reads at most: its positions, and its rotary embedding's limit.

    A model without either has no limit.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(positions or sys.maxsize, rotary_limit(model.config) or sys.maxsize)

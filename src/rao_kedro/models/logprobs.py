"""Log-probabilities of packed prompt groups.

Log-probs are sums over tokens, in nats and fp32. They are computed tile by tile from the hidden states at the positions
that need them: the full `[tokens, vocabulary]` matrix never exists. Knows nothing about objectives.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rao_kedro.errors import ModelError
from rao_kedro.models.packing import Pack, compute_hidden_states, why_not_packed
from rao_kedro.models.token_logps import LogitScaling, token_logps
from rao_kedro.objectives.base import PromptGradient


class SequenceLogProbs(NamedTuple):
    """Summed log-probs of G groups. A tuple, so that FSDP2 and DeepSpeed find the tensors for their hooks.

    Attributes:
        responses: `[G, K]` log pi(y_ij | x_i) in nats, 0 where masked.
        prompts: `[G]` log pi(x_i - t_0 | t_0) in nats; None if they were not requested.
    """

    responses: Tensor
    prompts: Tensor | None = None


class LogProbModel(nn.Module):
    """A causal LM whose forward pass returns the log-probs of packed groups.

    One module, so that sharding wrappers (FSDP2) see the decoder and the output embedding in one forward pass.
    """

    def __init__(self, model: PreTrainedModel, temperature: float = 1.0) -> None:
        """Wrap a causal LM.

        Args:
            model: A causal LM of transformers.
            temperature: Divides the logits; the sampling temperature of a policy that is trained on its samples.

        Raises:
            ModelError: The model's results on packed groups differ from those on single rows.
        """
        super().__init__()
        self.model, self.temperature = model, temperature
        self._no_split_modules = getattr(model, "_no_split_modules", None)
        if reason := why_not_packed(model, self.response_tokens, self._response_tokens_alone):
            raise ModelError(f"{type(model).__name__} cannot be trained on packed groups: {reason}")

    def tie_weights(self) -> None:
        """Tie the input and the output embedding again after sharding has replaced them."""
        self.model.tie_weights()

    def forward(self, batch: Pack, prompt_gradient: PromptGradient = "none") -> SequenceLogProbs:
        """Return the log-probs of a packed batch.

        Args:
            batch: G groups of up to K responses.
            prompt_gradient: "none" computes no prompt log-probs; "detached" computes them without gradients, and
                "attached" with gradients.
        """
        hidden = self._hidden(batch)
        token_logps = self._token_logps(hidden[batch.response_source], batch.response_target)
        responses = _sum_segments(token_logps, batch.response_segment, batch.mask.numel()).view(batch.mask.shape)
        if prompt_gradient == "none":
            return SequenceLogProbs(responses)
        with torch.set_grad_enabled(prompt_gradient == "attached" and torch.is_grad_enabled()):
            prompt_logps = self._token_logps(hidden[batch.prompt_source], batch.prompt_target)
            prompts = _sum_segments(prompt_logps, batch.prompt_segment, len(batch.mask))
        return SequenceLogProbs(responses, prompts)

    def response_tokens(self, batch: Pack) -> Tensor:
        """Return the log-prob of every response token, `[R]` in nats, in the order of `batch.response_target`."""
        return self._token_logps(self._hidden(batch)[batch.response_source], batch.response_target)

    def _response_tokens_alone(self, rows: Tensor) -> Tensor:
        """Return `[rows, 3]` log-probs of the last tokens, from the model's own logits."""
        logits = self.model(input_ids=rows, use_cache=False).logits[:, -4:-1].float() / self.temperature
        return logits.log_softmax(-1).gather(2, rows[:, -3:, None])[..., 0]

    def _hidden(self, batch: Pack) -> Tensor:
        return compute_hidden_states(self.model, batch)

    def _token_logps(self, hidden: Tensor, targets: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        return token_logps(hidden, head.weight, head.bias, targets, logit_scaling(self.model, self.temperature))


class TokenLogProbs(nn.Module):
    """A policy whose forward pass returns the log-prob of every response token.

    Wrappers for sharding gather the weights in forward passes, not in other methods.
    """

    def __init__(self, policy: LogProbModel) -> None:
        """Wrap a policy."""
        super().__init__()
        self.policy = policy
        self._no_split_modules = policy._no_split_modules

    def forward(self, batch: Pack) -> Tensor:
        """Return `[R]` log-probs in nats, in the order of `batch.response_target`."""
        return self.policy.response_tokens(batch)


def logit_scaling(model: PreTrainedModel, temperature: float = 1.0) -> LogitScaling:
    """Return the scaling of logits by the model's own forward pass, followed by a temperature."""
    config = model.config.get_text_config()
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return LogitScaling(factor, getattr(config, "final_logit_softcapping", None), temperature)


def _sum_segments(values: Tensor, segments: Tensor, n_segments: int) -> Tensor:
    return values.new_zeros(n_segments).index_add(0, segments, values)

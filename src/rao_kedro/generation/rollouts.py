"""Rollouts: responses that the policy samples during training. Knows prompt groups and one model, no objective."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.distributed import process_state
from rao_kedro.generation.base import complete
from rao_kedro.generation.transformers_backend import continue_prompts
from rao_kedro.models.chat_format import end_of_turn_ids, load_tokenizer
from rao_kedro.models.packing import TokenizedGroup

TOKENS_AT_ONCE = 2**15  # of rows that are written together: their keys and values take 131 kB a token in Llama 3 8B


@dataclass(frozen=True)
class Sampler:
    """Samples responses from the policy.

    Attributes:
        model_dir: The checkpoint with the tokenizer and the end-of-turn tokens.
        max_tokens: Limit on the tokens of a response.
        samples_per_prompt: Responses to each prompt.
        temperature: Divides the logits.
    """

    model_dir: Path
    max_tokens: int
    samples_per_prompt: int = 1
    temperature: float = 1.0

    def sample(self, policy: nn.Module, groups: Sequence[TokenizedGroup]) -> list[TokenizedGroup]:
        """Return the groups with new responses of the policy, in their order; each process samples its share.

        The samples depend on torch's seed of the main process, not on the number of processes.

        Args:
            policy: A causal LM in evaluation mode, not wrapped for training.
            groups: The same groups on every process. Their own responses and rewards are dropped.
        """
        tokenizer = load_tokenizer(self.model_dir)
        stop_ids = end_of_turn_ids(self.model_dir, tokenizer)
        sampling = SamplingParameters(temperature=self.temperature, top_p=1.0, max_tokens=self.max_tokens)
        state, n = process_state(), self.samples_per_prompt
        share = slice(state.process_index, None, state.num_processes)
        mine = groups[share]
        (seed,) = broadcast_object_list([int(torch.randint(2**62, ()))])
        every_draw = torch.rand(
            len(groups), n, self.max_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        draws = every_draw[share].flatten(0, 1)
        written: list[tuple[str, list[list[int]]]] = []
        if mine:
            prompts = [group.prompt_ids for group in mine for _ in range(n)]
            with torch.compiler.set_stance("force_eager"):  # layers are compiled for training only
                longest = max(map(len, prompts)) + self.max_tokens
                at_once = max(1, TOKENS_AT_ONCE // longest)
                ids = chain.from_iterable(
                    continue_prompts(policy, prompts[rows], sampling, stop_ids, draws[rows])
                    for rows in (slice(i, i + at_once) for i in range(0, len(prompts), at_once))
                )
                for group in mine:
                    completions = [complete(tokenizer, next(ids), stop_ids) for _ in range(n)]
                    written.append((group.group_id, [completion.token_ids for completion in completions]))
        responses = dict(gather_object(written))
        return [group.with_responses(responses[group.group_id]) for group in groups]

"""What PPO does with sampled responses, whoever has sampled them: advantages, clipped losses, the two networks."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rao_kedro.config.specs import PPORoundSpec, PPOSpec
from rao_kedro.data.token_tables import read_groups
from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.models.chat_format import end_of_turn_ids, load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import Pack, TokenizedGroup, pack_groups, response_lengths
from rao_kedro.models.value_head import PolicyAndTokenValues, TokenValues
from rao_kedro.objectives import make_objective
from rao_kedro.objectives.ppo import PPO, Rollout
from rao_kedro.scoring.forward import ForwardPass, score_tokens
from rao_kedro.training.options import disable_dropout
from rao_kedro.training.remarks import likelihood_remark
from rao_kedro.training.task import LossOutput, Outputs, Task

REPORTED = ("score", "kl_to_reference", "response_tokens")  # of sampled responses; the KL divergence in nats


class PPOUpdates(Task):
    """Trains a policy and a value network on rollouts. Subclasses say where the responses come from."""

    def __init__(self, spec: PPOSpec | PPORoundSpec) -> None:
        """Read the groups that the spec names, and build the objective.

        Raises:
            ParameterError: A parameter of the objective is unknown or out of range.
        """
        training = spec.training
        self.tokenizer = load_tokenizer(spec.model_dir)
        self.stop_ids = set(end_of_turn_ids(spec.model_dir, self.tokenizer))
        try:
            self.objective: PPO = make_objective("ppo", **spec.objective_parameters)
        except ValueError as error:
            raise ParameterError(str(error)) from error
        self.forward_pass = ForwardPass(training.mixed_precision, training.max_tokens_per_batch, spec.t0_length)
        self.train_groups, self.eval_groups = (
            read_groups(spec.groups_path, split, ["rewards"]) for split in ("train", "validation")
        )
        self.rollouts: dict[str, Rollout] = {}

    def load_networks(self, policy_dir: Path, value_dir: Path, temperature: float) -> PolicyAndTokenValues:
        """Load the policy and the value network, a scalar sequence classifier.

        Raises:
            TrainingError: The value network has another tokenizer than the policy.
        """
        if load_tokenizer(value_dir).get_vocab() != self.tokenizer.get_vocab():
            raise TrainingError(
                f"the value network starts as the reward model in {value_dir}, whose tokenizer is not "
                "the policy's: train a reward model from the policy's family (`reward_modeling.start`)"
            )
        policy = disable_dropout(load_causal_lm(policy_dir, for_engine=True))
        value = disable_dropout(load_reward_model(value_dir, for_engine=True))
        return PolicyAndTokenValues(LogProbModel(policy, temperature), TokenValues(value))

    def make_rollouts(
        self,
        module: nn.Module,
        groups: Sequence[TokenizedGroup],
        scores: Tensor,
        reference: Mapping[str, Sequence[tuple[Tensor, ...]]] | None,
    ) -> dict[str, Tensor]:
        """Keep the rollouts of groups whose responses the policy, as it is now, has sampled.

        Advantages are whitened over all tokens of these groups.

        Args:
            module: Policy and value network, which may be wrapped for training.
            groups: The groups; every process passes all of them.
            scores: `[N]` rewards of the N responses, group by group.
            reference: Log-probs of their tokens under the reference, from `score_tokens`; None: it is the policy.

        Returns:
            `[N]` of each response: what is `REPORTED`, and the `reference_logps`, summed over tokens, in nats.
        """
        sampled = score_tokens(module, groups, self.forward_pass)
        rows = [row for group in groups for row in sampled[group.group_id]]
        logps, values = (pad_sequence(list(column), batch_first=True) for column in zip(*rows, strict=True))
        of_reference = logps
        if reference is not None:
            rows = [row for group in groups for row in reference[group.group_id]]
            of_reference = pad_sequence([logps for (logps,) in rows], batch_first=True)
        lengths = torch.tensor([n for group in groups for n in group.response_lengths])
        finished = torch.tensor([ids[-1] in self.stop_ids for group in groups for ids in group.response_ids])
        mask = torch.arange(logps.shape[1])[None] < lengths[:, None]
        rollout = self.objective.rollout(logps, of_reference, values.float(), scores, mask, finished)
        parts = zip(*(by_group(getattr(rollout, f.name), groups) for f in fields(Rollout)), strict=True)
        self.rollouts |= {group.group_id: Rollout(*of_group) for group, of_group in zip(groups, parts, strict=True)}
        return {
            "score": scores,
            "kl_to_reference": (logps - of_reference).masked_fill(~mask, 0.0).sum(1),
            "response_tokens": lengths.float(),
            "reference_logps": of_reference.masked_fill(~mask, 0.0).sum(1),
        }

    def count_units(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count response tokens."""
        return float(sum(sum(group.response_lengths) for group in groups))

    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return the log-probs of response tokens in nats, and the values before them, `[G, K, T]` each."""
        packed = pack_groups(pack, self.forward_pass.t0_length).to(device)
        logps, values = (_by_response(column, packed) for column in module(packed))
        return logps, values.float()

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the clipped losses of groups that have a rollout."""
        device, width = outputs[0].device, outputs[0].shape[2]
        parts = [self.rollouts[group.group_id] for group in groups]
        rollout = Rollout(
            **{
                f.name: torch.cat([getattr(part, f.name)[:, :width] for part in parts]).to(device)
                for f in fields(Rollout)
            }
        )
        exists = (response_lengths(groups) > 0).to(device)
        out = self.objective(rollout, *(column[exists] for column in outputs))
        return LossOutput(out.loss, out.metrics)

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:
        """Check that before the first update the policy is the policy that sampled.

        Raises:
            TrainingError: It is not, beyond the noise of the compute precision.
        """
        if (kl := metrics["approximate_kl"]) > 0.05:
            raise TrainingError(
                f"before the first update the policy is {kl:.4f} nats per token from the policy that sampled, instead "
                "of 0"
            )

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Return a sentence if the chosen responses became less likely."""
        return likelihood_remark("ppo", metrics, self.train_groups, self.objective.temperature)

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        policy = {k.removeprefix("policy."): v for k, v in weights.items() if k.startswith("policy.")}
        save_checkpoint(module.policy.model, self.tokenizer, directory, policy)


def by_group(of_responses: Tensor, groups: Sequence[TokenizedGroup]) -> tuple[Tensor, ...]:
    """Return the rows of `[N, ...]` that belong to each group."""
    return of_responses.split([len(group.response_ids) for group in groups])


def _by_response(tokens: Tensor, packed: Pack) -> Tensor:
    """Return `[R]` values of response tokens as `[G, K, T]`, 0 where there is no token."""
    exists = torch.arange(int(packed.lengths.max()), device=tokens.device) < packed.lengths[..., None]
    return tokens.new_zeros(exists.shape).masked_scatter(exists, tokens)

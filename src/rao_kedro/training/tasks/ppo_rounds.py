"""A round of PPO: trains on responses that the policy sampled before training began, for any number of epochs.

Nothing is sampled here, so that the policy may be sharded. Log-probs under the policy that sampled, those under the
reference, and values are computed once, before the first update, and a resumed round computes them again.
"""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rao_kedro.config.specs import PPORoundSpec
from rao_kedro.data.token_tables import read_reference
from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel, TokenLogProbs
from rao_kedro.models.packing import TokenizedGroup, response_lengths
from rao_kedro.objectives import LogProbBatch
from rao_kedro.objectives.metrics import pair_metrics
from rao_kedro.scoring.forward import score_tokens
from rao_kedro.scoring.placement import place_for_scoring
from rao_kedro.scoring.reference_cache import refuse_stale, scoring_key
from rao_kedro.training.loop import train
from rao_kedro.training.parameter_groups import ParameterGroup
from rao_kedro.training.task import LossOutput, Outputs
from rao_kedro.training.tasks.offline import STEP_ZERO_TOLERANCE
from rao_kedro.training.tasks.ppo_updates import REPORTED, PPOUpdates, by_group
from rao_kedro.workers import worker_main

TokenLogps = Mapping[str, Sequence[tuple[Tensor, ...]]]  # of each group, per response, as `score_tokens` returns them


class PPORound(PPOUpdates):
    """Reinforcement learning from the rewards of given samples, with a KL penalty to the reference.

    Evaluations are on responses of the data, which the policy did not sample. Their loss is the surrogate of that, and
    their metrics say how the likelihoods of chosen and rejected responses changed.
    """

    selection_metric = "loss"
    greater_is_better = False

    def __init__(self, spec: PPORoundSpec) -> None:
        """Read the groups that the spec names, and build the objective.

        Raises:
            ParameterError: A parameter of the objective is unknown or out of range, or its `kl_horizon` is too short.
            TrainingError: The table of reference log-probs was computed from other inputs.
        """
        super().__init__(spec)
        self.spec = spec
        self.value_tokenizer = load_tokenizer(spec.value_dir)
        self.parameter_groups = (ParameterGroup("value", spec.value_learning_rate, spec.value_max_grad_norm),)
        n_responses = sum(len(group.response_ids) for group in self.train_groups)
        try:
            self.objective.next_beta(0.0, n_responses)
        except ValueError as error:
            raise ParameterError(str(error)) from error
        if spec.reference_path is not None:
            key = scoring_key(spec.reference_model, spec.groups_path, spec.training.mixed_precision, spec.t0_length)
            refuse_stale(spec.reference_path, key)
        self.of_round: dict[str, float] = {}
        self.reference_logps: dict[str, Tensor] = {}
        self.evaluates = False

    def load(self) -> nn.Module:
        """Return the policy and the value network.

        Raises:
            TrainingError: The value network has another tokenizer than the policy.
        """
        return self.load_networks(self.spec.model_dir, self.spec.value_dir, self.spec.temperature)

    def prepare(self, module: nn.Module) -> None:
        """Make the rollouts of all groups, with the weights that the round starts from.

        A reference model that is another one is in memory for its own passes only.

        Raises:
            TrainingError: The reference's log-probs are not those of the table that the spec names.
        """
        splits = [groups for groups in (self.train_groups, self.eval_groups) if groups]
        for groups, reference in zip(splits, self._score_reference(splits), strict=True):
            scores = torch.tensor([reward for group in groups for reward in group.rewards or []])
            found = self.make_rollouts(module, groups, scores, reference)
            sums = by_group(found["reference_logps"], groups)
            self.reference_logps |= {group.group_id: of for group, of in zip(groups, sums, strict=True)}
            if groups is self.train_groups:
                self.of_round = {name: float(found[name].mean()) for name in REPORTED}
        if self.spec.reference_path is not None and self.spec.temperature == 1.0:
            self._compare_with_table(self.spec.reference_path)

    def _score_reference(self, splits: Sequence[Sequence[TokenizedGroup]]) -> list[TokenLogps | None]:
        """Return the reference's log-probs of the groups of each split; None where it is the policy as it is now."""
        directory, dtype = self.spec.reference_model, weights_dtype(self.spec.training.mixed_precision)
        if directory == self.spec.model_dir:
            return [None for _ in splits]

        def load() -> TokenLogProbs:
            return TokenLogProbs(LogProbModel(load_causal_lm(directory, dtype), self.spec.temperature))

        reference = place_for_scoring(load, directory, dtype)
        found: list[TokenLogps | None] = [score_tokens(reference, groups, self.forward_pass) for groups in splits]
        del reference
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return found

    def _compare_with_table(self, path: Path) -> None:
        table = read_reference(path, self.spec.groups_path)
        tolerance = STEP_ZERO_TOLERANCE[self.forward_pass.mixed_precision]
        stored = torch.tensor([logp for name in self.reference_logps for logp in table[name][1]])
        error = float((torch.cat([*self.reference_logps.values()]) - stored).abs().mean())
        if error > tolerance:
            raise TrainingError(
                f"the reference log-probs in {path} differ from those of {self.spec.reference_model} computed here by "
                f"{error:.3f} nats per response (tolerance {tolerance}): remove the table, and run again"
            )

    def prepare_groups(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Note whether this is an evaluation."""
        self.evaluates = not module.training
        return groups

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the clipped losses; in an evaluation also the likelihoods of chosen and rejected responses."""
        out = super().loss(outputs, groups)
        if not self.evaluates:
            return out
        policy = outputs[0].sum(2)[:, :2]
        batch = LogProbBatch(
            policy=policy,
            reference=torch.stack([self.reference_logps[group.group_id][:2] for group in groups]).to(policy.device),
            lengths=response_lengths(groups)[:, :2].to(policy.device),
        )
        return LossOutput(out.loss, {**out.metrics, **pair_metrics(batch, self.objective.beta * batch.log_ratio())})

    def summarise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Add beta, and to the metrics of a step the means over all responses of the round."""
        return {**metrics, "beta": self.objective.beta, **({} if self.evaluates else self.of_round)}

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy, and the value network as a sequence classifier, with which the next round may start."""
        super().save(module, weights, directory)
        value = {k.removeprefix("value."): v for k, v in weights.items() if k.startswith("value.")}
        save_checkpoint(module.value.model, self.value_tokenizer, self.spec.value_network_dir, value)


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = PPORoundSpec.model_validate_json(Path(spec_path).read_text())
    train(PPORound(spec), spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

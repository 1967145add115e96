"""PPO: samples responses from the policy, scores them with a reward, and trains on each rollout several times.

`prepare_groups` replaces the groups of a step by the responses that the policy samples for their prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from rao_kedro.config.specs import PPOSpec
from rao_kedro.data.token_tables import PromptGroups, read_reference
from rao_kedro.distributed import make_accelerator, sharding
from rao_kedro.errors import DataError, ParameterError, TrainingError
from rao_kedro.generation.rollouts import Sampler
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel, TokenLogProbs
from rao_kedro.models.packing import TokenizedGroup, response_lengths
from rao_kedro.objectives import LogProbBatch
from rao_kedro.objectives.metrics import pair_metrics
from rao_kedro.rewards.registry import build_reward
from rao_kedro.scoring.forward import score_logps, score_tokens
from rao_kedro.scoring.reference_cache import refuse_stale, scoring_key
from rao_kedro.training.loop import train
from rao_kedro.training.task import LossOutput, Outputs
from rao_kedro.training.tasks.ppo_updates import REPORTED, PPOUpdates, by_group
from rao_kedro.workers import worker_main


class PPOTask(PPOUpdates):
    """Reinforcement learning from a reward, with a KL penalty to the SFT model."""

    selection_metric = "score"
    greater_is_better = True

    def __init__(self, spec: PPOSpec) -> None:
        """Read the prompts and reference log-probs that the spec names, and build the objective and the reward.

        Raises:
            ParameterError: A parameter of the objective is unknown or out of range, or its KL control is adaptive.
        """
        super().__init__(spec)
        if self.objective.kl_control != "fixed":
            raise ParameterError("ppo adapts beta from round to round only, and this run has none: kl_control: fixed")
        self.spec = spec
        self.passes_per_step = spec.rollout.ppo_epochs
        rollout = spec.rollout
        self.sampler = Sampler(spec.model_dir, rollout.max_new_tokens, rollout.samples_per_prompt, rollout.temperature)
        self.reward = build_reward(rollout.reward)
        self.texts = PromptGroups(spec.groups_path)
        self.rows = {name: row for row, name in enumerate(self.texts.ids)}
        key = scoring_key(spec.model_dir, spec.groups_path, spec.training.mixed_precision, spec.t0_length)
        refuse_stale(spec.reference_path, key)
        self.reference_logps = read_reference(spec.reference_path, spec.groups_path)
        self.likelihoods: dict[str, float] = {}
        self.prompts: Sequence[TokenizedGroup] = []
        self.rollout_groups: Sequence[TokenizedGroup] = []
        self.means: dict[str, dict[str, float]] = {}  # of each group: its score, KL and length

    @property
    def responses_per_prompt(self) -> None:
        """None: training does not use the responses of the data."""

    def load(self) -> nn.Module:
        """Return the policy and a value network that starts as the reward model.

        Raises:
            TrainingError: The policy would be sharded over processes, so that it cannot be sampled from here; or the
                reward model has another tokenizer than the policy.
        """
        if kind := sharding():
            raise TrainingError(
                f"ppo samples from the policy, which {kind} would shard: use an accelerate file with one process, or "
                "with data parallelism only (ppo_accelerate: ddp)"
            )
        return self.load_networks(self.spec.model_dir, self.spec.reward_model_dir, self.spec.rollout.temperature)

    def prepare(self, module: nn.Module) -> None:
        """Load the reference, frozen."""
        precision = self.spec.training.mixed_precision
        self.accelerator = make_accelerator(precision)
        model = load_causal_lm(self.spec.model_dir, weights_dtype(precision))
        reference = TokenLogProbs(LogProbModel(model, self.spec.rollout.temperature))
        self.reference = reference.to(self.accelerator.device).eval().requires_grad_(False)

    def prepare_groups(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Sample and score a rollout; further epochs over the same prompts reuse it."""
        if not (module.training and groups is self.prompts):
            was_training = module.training
            module.eval()
            with torch.no_grad(), self.accelerator.autocast():
                self.rollout_groups = self.sampler.sample(extract_model_from_parallel(module).policy.model, groups)
            self._score(module, self.rollout_groups)
            self.likelihoods = {} if was_training else self._likelihoods(module, groups)
            module.train(was_training)
            self.prompts = groups if was_training else []
        return self.rollout_groups

    def _score(self, module: nn.Module, groups: Sequence[TokenizedGroup]) -> None:
        """Make the rollouts of sampled groups, and note their means."""
        self.rollouts.clear()
        reference = score_tokens(self.reference, groups, self.forward_pass)
        found = self.make_rollouts(module, groups, self._rewards(groups), reference)
        of_groups = {name: by_group(found[name], groups) for name in REPORTED}
        self.means = {
            group.group_id: {name: float(columns[i].mean()) for name, columns in of_groups.items()}
            for i, group in enumerate(groups)
        }

    def _rewards(self, groups: Sequence[TokenizedGroup]) -> Tensor:
        """Return the rewards of all responses, group by group.

        Raises:
            DataError: A response could not be scored.
        """
        written = [
            replace(
                self.texts[self.rows[group.group_id]],
                responses=[
                    str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in group.response_ids
                ],
                ratings=None,
                finished=[ids[-1] in self.stop_ids for ids in group.response_ids],
            )
            for group in groups
        ]
        found = self.reward.annotate(written)
        for group, scores in zip(written, found, strict=True):
            if any(scores.failures):
                raise DataError(f"a response to group {group.group_id} got no reward: {max(scores.failures)}")
        return torch.tensor([reward for scores in found for reward in scores.rewards])

    def _likelihoods(self, module: nn.Module, groups: Sequence[TokenizedGroup]) -> dict[str, float]:
        """Return how the likelihood of the chosen and rejected responses in the data has changed."""
        policy = LogProbModel(extract_model_from_parallel(module).policy.model)
        pairs = [
            group.with_responses(group.response_ids[:2], None if group.learned is None else group.learned[:2])
            for group in groups
        ]
        logps = score_logps(policy, pairs, self.forward_pass)
        batch = LogProbBatch(
            policy=torch.tensor([logps[group.group_id].responses for group in pairs]),
            reference=torch.tensor([self.reference_logps[group.group_id][1][:2] for group in pairs]),
            lengths=response_lengths(pairs),
            mask=torch.ones(len(pairs), 2, dtype=torch.bool),
        )
        metrics = pair_metrics(batch, self.objective.beta * batch.log_ratio())
        return {name: float(value) for name, value in metrics.items()}

    def summarise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Add the likelihoods of the chosen and rejected responses to the metrics of an evaluation."""
        return {**metrics, **self.likelihoods}

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the clipped losses of groups of the rollout, with their means."""
        out = super().loss(outputs, groups)
        means = [self.means[group.group_id] for group in groups]
        summary = {
            name: torch.tensor(sum(of[name] for of in means) / len(means), device=outputs[0].device)
            for name in means[0]
        }
        return LossOutput(out.loss, {**out.metrics, **summary})

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:
        """Check that before the first update the policy is the policy that sampled, and the reference.

        Raises:
            TrainingError: It is not, beyond the noise of the compute precision.
        """
        super().check_step_zero(metrics)
        if abs(metrics["kl_to_reference"]) > 2.0:
            raise TrainingError(
                f"before the first update the policy is {metrics['kl_to_reference']:.3f} nats from the reference, "
                "instead of 0"
            )


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = PPOSpec.model_validate_json(Path(spec_path).read_text())
    train(PPOTask(spec), spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

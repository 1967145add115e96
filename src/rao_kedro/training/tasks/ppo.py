"""PPO: samples responses from the policy, scores them with a reward, and trains on each rollout several times.

`prepare_groups` replaces the groups of a step by the responses that the policy samples for their prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel, gather_object
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rao_kedro.config.specs import PPOSpec
from rao_kedro.data.token_tables import PromptGroups, read_groups, read_reference
from rao_kedro.distributed import make_accelerator, sharding
from rao_kedro.errors import DataError, TrainingError
from rao_kedro.generation.rollouts import Sampler
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.chat_format import end_of_turn_ids, load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import Pack, TokenizedGroup, pack_groups, response_lengths
from rao_kedro.models.value_head import PolicyAndTokenValues, TokenValues
from rao_kedro.objectives import LogProbBatch, make_objective
from rao_kedro.objectives.metrics import pair_metrics
from rao_kedro.objectives.ppo import Rollout
from rao_kedro.rewards.registry import build_reward
from rao_kedro.scoring.forward import ForwardPass, Pieces, join_pieces, piece_key, score_logps
from rao_kedro.scoring.packs import fill_packs, share_packs
from rao_kedro.scoring.reference_cache import refuse_stale, scoring_key
from rao_kedro.training.loop import train
from rao_kedro.training.options import disable_dropout
from rao_kedro.training.remarks import likelihood_remark
from rao_kedro.training.task import LossOutput, Outputs, Task
from rao_kedro.workers import worker_main


class PPOTask(Task):
    """Reinforcement learning from a reward, with a KL penalty to the SFT model."""

    selection_metric = "score"
    greater_is_better = True

    def __init__(self, spec: PPOSpec) -> None:
        """Read the prompts and reference log-probs that the spec names, and build the objective and the reward."""
        self.spec = spec
        self.passes_per_step = spec.rollout.ppo_epochs
        self.tokenizer = load_tokenizer(spec.model_dir)
        rollout = spec.rollout
        self.sampler = Sampler(spec.model_dir, rollout.max_new_tokens, rollout.samples_per_prompt, rollout.temperature)
        self.objective = make_objective("ppo", **spec.objective_parameters)
        self.reward = build_reward(rollout.reward)
        self.texts = PromptGroups(spec.groups_path)
        self.rows = {name: row for row, name in enumerate(self.texts.ids)}
        self.train_groups, self.eval_groups = (
            read_groups(spec.groups_path, split, ["rewards"]) for split in ("train", "validation")
        )
        key = scoring_key(spec.model_dir, spec.groups_path, spec.training.mixed_precision, spec.t0_length)
        refuse_stale(spec.reference_path, key)
        self.reference_logps = read_reference(spec.reference_path, spec.groups_path)
        self.likelihoods: dict[str, float] = {}
        self.prompts: Sequence[TokenizedGroup] = []
        self.rollout_groups: Sequence[TokenizedGroup] = []
        self.rollouts: dict[str, tuple[Rollout, dict[str, float]]] = {}

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
        if load_tokenizer(self.spec.reward_model_dir).get_vocab() != self.tokenizer.get_vocab():
            raise TrainingError(
                f"the value network starts as the reward model in {self.spec.reward_model_dir}, whose tokenizer is not "
                "the policy's: train a reward model from the policy's family (`reward_modeling.start`)"
            )
        policy = disable_dropout(load_causal_lm(self.spec.model_dir, for_engine=True))
        value = disable_dropout(load_reward_model(self.spec.reward_model_dir, for_engine=True))
        return PolicyAndTokenValues(LogProbModel(policy, self.spec.rollout.temperature), TokenValues(value))

    def prepare(self, module: nn.Module) -> None:
        """Load the reference, frozen."""
        precision = self.spec.training.mixed_precision
        self.accelerator = make_accelerator(precision)
        model = load_causal_lm(self.spec.model_dir, weights_dtype(precision))
        reference = LogProbModel(model, self.spec.rollout.temperature)
        self.reference = reference.to(self.accelerator.device).eval().requires_grad_(False)

    def count_units(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count response tokens."""
        return float(sum(len(response) for group in groups for response in group.response_ids))

    def prepare_groups(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Sample and score a rollout; further epochs over the same prompts reuse it."""
        if not (module.training and groups is self.prompts):
            was_training = module.training
            module.eval()
            with torch.no_grad(), self.accelerator.autocast():
                self.rollout_groups = self.sampler.sample(extract_model_from_parallel(module).policy.model, groups)
                self.rollouts = self._score(module, self.rollout_groups)
            self.likelihoods = {} if was_training else self._likelihoods(module, groups)
            module.train(was_training)
            self.prompts = groups if was_training else []
        return self.rollout_groups

    def _score(
        self, module: nn.Module, groups: Sequence[TokenizedGroup]
    ) -> dict[str, tuple[Rollout, dict[str, float]]]:
        """Return each group's rollout by its id, with means of score, KL and length; whitening is over all tokens."""
        mine: Pieces[tuple[Tensor, Tensor, Tensor]] = {}
        scores = self._rewards(groups)
        all_packs = fill_packs(groups, self.spec.training.max_tokens_per_batch)
        n_processes = self.accelerator.num_processes
        for pack, counts in share_packs(all_packs, self.accelerator.process_index, n_processes):
            packed = pack_groups(pack, self.spec.t0_length).to(self.accelerator.device)
            logps, values = module(packed)
            columns = (logps, self.reference.response_tokens(packed), values.float())
            of_pack = zip(
                *(column.cpu().split(packed.lengths[packed.mask].tolist()) for column in columns), strict=True
            )
            for piece in pack if counts else []:
                mine[piece_key(piece)] = list(islice(of_pack, len(piece.response_ids)))
        order = [row for of_group in join_pieces(gather_object([mine]), groups).values() for row in of_group]
        logps, reference, values = (pad_sequence(list(column), batch_first=True) for column in zip(*order, strict=True))
        lengths = torch.tensor([len(ids) for group in groups for ids in group.response_ids])
        mask = torch.arange(logps.shape[1])[None] < lengths[:, None]
        rollout = self.objective.rollout(logps, reference, values, scores, mask)
        kl = (logps - reference).masked_fill(~mask, 0.0).sum(1)
        result, start = {}, 0
        for group in groups:
            rows = slice(start, start + len(group.response_ids))
            start = rows.stop
            part = Rollout(**{f.name: getattr(rollout, f.name)[rows] for f in fields(Rollout)})
            summary = {"score": scores[rows], "kl_to_reference": kl[rows], "response_tokens": lengths[rows].float()}
            result[group.group_id] = (part, {name: float(x.mean()) for name, x in summary.items()})
        return result

    def _rewards(self, groups: Sequence[TokenizedGroup]) -> Tensor:
        """Return the rewards of all responses, group by group.

        Raises:
            DataError: A response could not be scored.
        """
        stop_ids = set(end_of_turn_ids(self.spec.model_dir, self.tokenizer))
        written = [
            replace(
                self.texts[self.rows[group.group_id]],
                responses=[
                    str(self.tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in group.response_ids
                ],
                ratings=None,
                finished=[ids[-1] in stop_ids for ids in group.response_ids],
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
        training = self.spec.training
        forward_pass = ForwardPass(training.mixed_precision, training.max_tokens_per_batch, self.spec.t0_length)
        pairs = [
            group.with_responses(group.response_ids[:2], None if group.learned is None else group.learned[:2])
            for group in groups
        ]
        logps = score_logps(policy, pairs, forward_pass)
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

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Return a sentence if the chosen responses became less likely."""
        return likelihood_remark("ppo", metrics, self.train_groups, self.objective.temperature)

    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return the log-probs of response tokens in nats, and the values before them, `[G, K, T]` each."""
        packed = pack_groups(pack, self.spec.t0_length).to(device)
        logps, values = (_by_response(column, packed) for column in module(packed))
        return logps, values.float()

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the clipped losses of groups of the rollout."""
        device = outputs[0].device
        parts = [self.rollouts[group.group_id] for group in groups]
        width = outputs[0].shape[2]
        rollout = Rollout(
            **{
                f.name: torch.cat([getattr(part, f.name)[:, :width] for part, _ in parts]).to(device)
                for f in fields(Rollout)
            }
        )
        exists = (response_lengths(groups) > 0).to(device)
        out = self.objective(rollout, *(column[exists] for column in outputs))
        summary = {
            name: torch.tensor(sum(means[name] for _, means in parts) / len(parts), device=device)
            for name in parts[0][1]
        }
        return LossOutput(out.loss, {**out.metrics, **summary})

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:
        """Check that before the first update the policy is the policy that sampled, and the reference.

        Raises:
            TrainingError: It is not, beyond the noise of the compute precision.
        """
        if metrics["approximate_kl"] > 0.05 or abs(metrics["kl_to_reference"]) > 2.0:
            raise TrainingError(
                f"before the first update the policy is {metrics['kl_to_reference']:.3f} nats from the reference and "
                f"{metrics['approximate_kl']:.4f} from the policy that sampled, instead of 0"
            )

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        policy = {k.removeprefix("policy."): v for k, v in weights.items() if k.startswith("policy.")}
        save_checkpoint(module.policy.model, self.tokenizer, directory, policy)


def _by_response(tokens: Tensor, packed: Pack) -> Tensor:
    """Return `[R]` values of response tokens as `[G, K, T]`, 0 where there is no token."""
    exists = torch.arange(int(packed.lengths.max()), device=tokens.device) < packed.lengths[..., None]
    return tokens.new_zeros(exists.shape).masked_scatter(exists, tokens)


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = PPOSpec.model_validate_json(Path(spec_path).read_text())
    train(PPOTask(spec), spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

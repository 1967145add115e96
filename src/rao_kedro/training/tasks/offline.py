"""Offline alignment: an objective on packed prompt groups, against cached reference log-probs."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from rao_kedro.config.specs import AlignmentSpec
from rao_kedro.data.token_tables import read_groups, read_reference
from rao_kedro.distributed import process_state, sharding
from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.generation.rollouts import Sampler
from rao_kedro.generation.transformers_backend import refuse_long_prompts
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel, SequenceLogProbs
from rao_kedro.models.packing import Pack, TokenizedGroup, pack_groups
from rao_kedro.objectives import LogProbBatch, Objective, make_objective
from rao_kedro.objectives.calibration import raising_log_z0
from rao_kedro.objectives.metrics import finished
from rao_kedro.objectives.pairwise import AllPairs, PairwiseObjective
from rao_kedro.objectives.rao import RAO
from rao_kedro.rewards.outliers import outlier_remark
from rao_kedro.scoring.forward import ForwardPass, score_logps
from rao_kedro.scoring.reference_cache import refuse_stale, scoring_key
from rao_kedro.training.task import LossOutput, Task

logger = logging.getLogger(__name__)

# Mean log-ratio, in nats, that noise of the compute precision alone can cause before the first update.
STEP_ZERO_TOLERANCE = {"no": 0.01, "bf16": 1.5}


def build_objective(spec: AlignmentSpec, groups: Sequence[TokenizedGroup]) -> Objective:
    """Return the spec's objective, with `log_z0: auto` solved from the rewards of `groups`, on the pairs it asks for.

    Raises:
        ParameterError: The objective or one of its parameters is unknown or out of range.
    """
    try:
        objective: Objective = make_objective(spec.objective, **spec.objective_parameters)
    except ValueError as error:
        raise ParameterError(str(error)) from error
    if isinstance(objective, RAO) and objective.log_z0 == "auto":
        objective = objective.calibrate([group.rewards or [] for group in groups])
        if process_state().is_main_process:
            logger.info("log_z0 solved from %d groups: %.3f nats", len(groups), objective.log_z0)
    if spec.pairs == "one":
        return objective
    if not isinstance(objective, PairwiseObjective):
        raise ParameterError(f"objective {spec.objective}: pairs: all is for the pairwise methods")
    return AllPairs(objective)


class OfflineAlignment(Task):
    """Moves the policy as the objective says."""

    selection_metric = "loss"
    greater_is_better = False

    def __init__(self, spec: AlignmentSpec) -> None:
        """Read the groups and the reference log-probs that the spec names.

        Raises:
            ParameterError: The objective needs reference log-probs, and the spec names none.
        """
        self.spec = spec
        self.tokenizer = load_tokenizer(spec.model_dir)
        self.reference: Mapping[str, tuple[float, list[float]]] = {}
        if spec.reference_path is not None:
            key = scoring_key(spec.model_dir, spec.groups_path, spec.training.mixed_precision, spec.t0_length)
            refuse_stale(spec.reference_path, key)
            self.reference = read_reference(spec.reference_path, spec.groups_path)
        train_groups, eval_groups = (
            read_groups(spec.groups_path, split, "rewards", spec.responses_per_prompt)
            for split in ("train", "validation")
        )
        self.objective = build_objective(spec, train_groups)
        if self.objective.needs_reference and spec.reference_path is None:
            raise ParameterError(f"objective {spec.objective} needs reference log-probs: set reference_path")
        rated = read_groups(spec.groups_path, None, "ratings") if spec.pairs == "all" else []
        self.ratings = {group.group_id: group.rewards or [] for group in rated}
        self.train_groups, self.eval_groups = self._columns(train_groups), self._columns(eval_groups)
        self.progress = 0.0
        self.sampler = Sampler(spec.model_dir, spec.kl.max_new_tokens)
        self.kl: dict[str, float] = {}

    def _columns(self, groups: list[TokenizedGroup]) -> list[TokenizedGroup]:
        if not self.objective.pairwise:
            return groups
        return [replace(g, response_ids=g.response_ids[:2], rewards=(g.rewards or [])[:2]) for g in groups]

    def load(self) -> nn.Module:
        """Return the policy, wrapped for packed log-probs. Dropout is off: the reference had none."""
        return LogProbModel(without_dropout(load_causal_lm(self.spec.model_dir, for_engine=True)))

    def prepare(self, module: nn.Module) -> None:
        """Refuse before the first step what an evaluation could not sample from; compute what it compares with.

        Without reference log-probs, those of the validation groups come from the policy, which is the reference still.

        Raises:
            ModelError: A prompt with `kl.max_new_tokens` is longer than the model's rotary embedding allows.
        """
        prompts = [group.prompt_ids for group in self.eval_groups[: self.spec.kl.prompts]]
        if prompts and not sharding():
            refuse_long_prompts(self.policy_of(module).model, prompts, self.spec.kl.max_new_tokens)
        if self.spec.reference_path is None:
            training = self.spec.training
            how = ForwardPass(training.mixed_precision, training.max_tokens_per_batch, self.spec.t0_length)
            self.reference = score_logps(module, self.eval_groups, how)

    def weigh(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count the units that the objective's mean runs over: groups, or responses for a flat reduction."""
        if getattr(self.objective, "reduction", None) == "flat":
            return float(sum(len(group.response_ids) for group in groups))
        return float(len(groups))

    def before_packs(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Remember how far training is, for objectives with a schedule; measure the KL divergence in an evaluation."""
        self.progress = progress
        sampled_on = groups[: self.spec.kl.prompts]
        differ = progress > 0  # before the first update the policy is the reference
        self.kl = self.sequence_kl(module, sampled_on) if sampled_on and differ and not module.training else {}
        return groups

    def sequence_kl(self, module: nn.Module, groups: Sequence[TokenizedGroup]) -> dict[str, float]:
        """Return KL(policy || reference) in nats per response, with its standard error.

        The mean of `log pi(y|x) - log pi_ref(y|x)` over one response to each prompt, sampled from the policy; nothing
        where the policy is sharded, so that it cannot be sampled from here.
        """
        if sharding():
            return {}
        training = self.spec.training
        policy, accelerator = self.policy_of(module), Accelerator(mixed_precision=training.mixed_precision)
        with torch.random.fork_rng(), accelerator.autocast():
            torch.manual_seed(training.seed)
            sampled = self.sampler.sample(policy.model, groups)
        room = max(training.max_tokens_per_batch, *(group.n_tokens for group in sampled))
        how = ForwardPass(training.mixed_precision, room, self.spec.t0_length)
        reference = LogProbModel(load_causal_lm(self.spec.model_dir))  # for the length of an evaluation only
        ours, theirs = (score_logps(model, sampled, how) for model in (policy, reference))
        ratios = torch.tensor([ours[name].responses[0] - theirs[name].responses[0] for name in ours])
        result = {"kl_to_reference": float(ratios.mean())}
        if len(ratios) > 1:
            result["kl_to_reference_stderr"] = float(ratios.std() / len(ratios) ** 0.5)
        return result

    def policy_of(self, module: nn.Module) -> Any:
        """Return the policy's `LogProbModel` inside a module that may be wrapped for training."""
        return extract_model_from_parallel(module)

    def loss(self, module: nn.Module, groups: Sequence[TokenizedGroup], device: torch.device) -> LossOutput:
        """Return the objective's loss and metrics."""
        out = self.objective(self.batch(module, groups, device))
        return LossOutput(out.loss, out.metrics)

    def batch(self, module: nn.Module, groups: Sequence[TokenizedGroup], device: torch.device) -> LogProbBatch:
        """Return what the objective reads of a pack of groups."""
        packed = pack_groups(groups, self.spec.t0_length).to(device)
        return self.with_reference(module(packed, prompt_gradient=self.objective.prompt_gradient), packed, groups)

    def with_reference(self, policy: SequenceLogProbs, packed: Pack, groups: Sequence[TokenizedGroup]) -> LogProbBatch:
        """Return the policy's log-probs with the rewards of the same responses and, where known, the reference's."""
        device = packed.input_ids.device
        rewards = [torch.tensor(group.rewards) for group in groups]
        known = [self.reference[g.group_id] for g in groups if g.group_id in self.reference]
        reference = [torch.tensor(of[1][: len(g.response_ids)]) for of, g in zip(known, groups, strict=bool(known))]
        ratings = [torch.tensor(self.ratings[g.group_id][: len(g.response_ids)]) for g in groups if self.ratings]
        return LogProbBatch(
            policy=policy.responses,
            lengths=packed.lengths,
            mask=packed.mask,
            reference=pad_sequence(reference, batch_first=True).to(device) if reference else None,
            policy_prompt=policy.prompts,
            reference_prompt=torch.tensor([of[0] for of in known], device=device) if known else None,
            rewards=pad_sequence(rewards, batch_first=True).to(device),
            ratings=pad_sequence(ratings, batch_first=True).to(device) if ratings else None,
            progress=self.progress,
        )

    def summarise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Derive correlations and the root mean square error from averaged moments, drop these, and add the KL."""
        result = finished({name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()})
        derived = {k: float(v) for k, v in result.items() if not k.endswith(("_square", "_times_log_ratio"))}
        return derived | self.kl

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:
        """Before the first update policy and reference are the same model: every log-ratio is 0 (design D6).

        Raises:
            TrainingError: One is not, within the noise of the compute precision; says which and what can cause it.
        """
        tolerance = STEP_ZERO_TOLERANCE[self.spec.training.mixed_precision]
        for name in ("log_ratio_chosen", "log_ratio_rejected", "prompt_log_ratio"):
            if abs(metrics.get(name, 0.0)) > tolerance:
                raise TrainingError(
                    f"before the first update {name} is {metrics[name]:.3f} nats instead of 0 (tolerance {tolerance}): "
                    "the reference log-probs come from other weights, another chat template or another precision. "
                    "Remove the cached reference log-probs and run the pipeline `alignment` again."
                )
        if self.spec.objective == "dpo" and not self.spec.objective_parameters.get("label_smoothing"):
            beta = float(self.spec.objective_parameters.get("beta", 0.1))
            if abs(metrics["loss"] - math.log(2)) > beta * tolerance:
                raise TrainingError(f"before the first update DPO's loss is {metrics['loss']:.4f} instead of ln 2")

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Say that the chosen responses become less likely, and which log_z0 of RAO would stop it."""
        return likelihood_remark(self.spec.objective, metrics, self.train_groups, self.objective.temperature)

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        save_checkpoint(module.model, self.tokenizer, directory, weights)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout of `model` to 0, and return it."""
    layer: Any
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if hasattr(layer, "attention_dropout"):
            layer.attention_dropout = 0.0
    return model


def target_remark(objective: Objective, groups: Sequence[TokenizedGroup]) -> str | None:
    """Return a sentence if RAO's log_z0 asks for less likely chosen responses, and which log_z0 would not."""
    if not isinstance(objective, RAO):
        return None
    chosen = [(group.rewards or [])[0] for group in groups]
    log_z0 = float(objective.log_z0)
    target = fmean(chosen) / objective.beta - log_z0
    if target >= 0:
        return None
    down = fmean(reward <= objective.beta * log_z0 for reward in chosen)
    return (
        f"log_z0 = {log_z0:g} nats asks for chosen responses that are less likely than under the reference: "
        f"their mean target log-ratio is {target:.2f} nats, and {down:.0%} of them have a target below 0. "
        f"log_z0 <= {raising_log_z0(chosen, objective.beta):.2f} would raise the mean one, "
        f"log_z0 <= {min(chosen) / objective.beta:.2f} every one."
    )


def likelihood_remark(
    name: str, metrics: Mapping[str, float], groups: Sequence[TokenizedGroup], beta: float | None
) -> str | None:
    """Return a sentence if most held-out chosen responses became less likely, and which log_z0 of RAO would stop it.

    Args:
        name: The method.
        metrics: Of an evaluation.
        groups: Training groups with their rewards.
        beta: The method's own reward units per nat; None where it has none.
    """
    h, fell = metrics["log_ratio_chosen"], metrics["chosen_likelihood_fell"]
    if h >= 0 or fell <= 0.5:
        return None
    bound = raising_log_z0([(group.rewards or [])[0] for group in groups], beta or 1.0)
    rao, limit = (f"RAO with beta {beta:g}", f"{bound:.2f}") if beta else ("RAO", f"{bound:.2f} / beta")
    return (
        f"{name} pushes the chosen responses down: {fell:.0%} of the held-out ones became less likely, mean "
        f"log-ratio {h:.2f} nats. {rao} aims at raising the mean chosen response where log_z0 <= {limit} nats."
    )


def reward_remark(spec: AlignmentSpec, objective: Objective, groups: Sequence[TokenizedGroup]) -> str | None:
    """Return a sentence if a method that learns from rewards has training rewards that lie far from all others."""
    if isinstance(objective, PairwiseObjective | AllPairs):
        return None
    asked = make_objective(spec.objective, **spec.objective_parameters)
    auto = isinstance(asked, RAO) and asked.log_z0 == "auto"
    solve = (lambda rewards: float(asked.calibrate(rewards).log_z0)) if auto else None
    return outlier_remark({group.group_id: group.rewards or [] for group in groups}, objective.temperature, solve)

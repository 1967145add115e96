"""Offline alignment: an objective on packed prompt groups, against cached reference log-probs."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rao_kedro.config.specs import AlignmentSpec
from rao_kedro.data.mapped_groups import MappedGroups
from rao_kedro.data.token_tables import ReferenceLogps, read_groups, read_reference
from rao_kedro.distributed import make_accelerator, process_state, sharding
from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.generation.rollouts import Sampler
from rao_kedro.generation.transformers_backend import refuse_long_prompts
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.logprobs import LogProbModel, SequenceLogProbs
from rao_kedro.models.packing import TokenizedGroup, pack_groups, response_lengths
from rao_kedro.objectives import LogProbBatch, Objective, Requirements, get_requirements, make_objective
from rao_kedro.objectives.metrics import derive_metrics
from rao_kedro.objectives.pairwise import AllPairs, PairwiseObjective
from rao_kedro.rewards.outliers import outlier_remark
from rao_kedro.rewards.reference_rewards import ReferenceRewards, read_reference_rewards
from rao_kedro.scoring.forward import ForwardPass, score_logps
from rao_kedro.scoring.placement import place_for_scoring
from rao_kedro.scoring.reference_cache import refuse_stale, scoring_key
from rao_kedro.training.options import disable_dropout
from rao_kedro.training.remarks import likelihood_remark
from rao_kedro.training.task import LossOutput, Outputs, Task

logger = logging.getLogger(__name__)

# Mean log-ratio, in nats, that the noise of the compute precision alone can cause before the first update. On a CPU the
# log-ratios are exactly 0 in both bf16 (104 responses); on a GPU kernels may depend on the size of a pack.
STEP_ZERO_TOLERANCE = {"no": 0.01, "bf16": 1.5, "bf16_weights": 1.5}


class OfflineAlignment(Task):
    """Trains the policy with an objective on the responses of the data."""

    selection_metric = "loss"
    greater_is_better = False

    def __init__(self, spec: AlignmentSpec) -> None:
        """Read the groups and the reference log-probs that the spec names, and build the objective.

        Raises:
            ParameterError: The objective or one of its parameters is unknown or out of range; it reads no pairs, and
                the spec asks for all pairs; or it needs reference log-probs, and the spec names none.
            TrainingError: The reference log-probs were computed from other inputs.
        """
        self.spec = spec
        self.tokenizer = load_tokenizer(spec.model_dir)
        self.uncalibrated, self.requirements = build_objective(spec)
        self.reference: ReferenceLogps | Mapping[str, tuple[float, list[float]]] = {}
        if spec.reference_path is not None:
            key = scoring_key(spec.reference_model, spec.groups_path, spec.training.mixed_precision, spec.t0_length)
            refuse_stale(spec.reference_path, key)
            self.reference = read_reference(spec.reference_path, spec.groups_path)
        self.one_pair = self.requirements.reads == "pairs" and spec.pairs == "one"
        read: list[Literal["rewards", "ratings"]] = ["rewards"] if spec.pairs == "one" else ["rewards", "ratings"]
        groups = [
            read_groups(spec.groups_path, split, read, 2 if self.one_pair else spec.responses_per_prompt)
            for split in ("train", "validation")
        ]
        self.sampling: dict[str, list[float]] = {}
        sampled, self.reference_rewards = None, None  # those that the loss reads
        calibration: Sequence[TokenizedGroup] = groups[0]
        if spec.calibration_path is not None:
            calibration = read_groups(spec.calibration_path, "train", read, spec.responses_per_prompt)
        if self.requirements.reference_rewards and spec.reference_rewards_path is not None:
            found = read_reference_rewards(spec.reference_rewards_path, spec.groups_path, spec.reference_model)
            if get_requirements(spec.objective).reference_rewards:  # not only to solve log_z0
                self.reference_rewards = found
                groups = [_with_reference_rewards(of_split, found) for of_split in groups]
            sampled = [found.of(group) for group in calibration]
        self.train_groups, self.eval_groups = groups
        rewards = [group.rewards or [] for group in calibration]
        self.objective = self.uncalibrated.calibrate(rewards, sampled)
        log_z0 = self.uncalibrated.solve_log_z0(rewards, sampled)
        if log_z0 is not None and process_state().is_main_process:
            logger.info("log_z0 solved from %d groups: %.3f nats", len(rewards), log_z0)
        self.progress = 0.0
        self.sampler = Sampler(spec.model_dir, spec.kl.max_new_tokens)
        self.kl: dict[str, float] = {}

    def describe(self) -> str:
        """Return which responses the objective reads."""
        limit = self.spec.responses_per_prompt
        responses = f"at most {limit} responses" if limit else "all responses"
        if self.spec.pairs == "all":
            responses = f"every pair of {responses}"
        if self.one_pair:
            responses = "the chosen and the rejected response"
        return f"{self.spec.objective}: {responses} of {len(self.train_groups)} prompt groups"

    def remark_on_rewards(self) -> list[str]:
        """Return sentences on training rewards that an objective should not learn from as they are."""
        if not self.requirements.rewards or self.objective.temperature is None:  # RAFT reads only the rewards' order
            return []
        names, rewards = zip(*((group.group_id, group.rewards or []) for group in self.train_groups), strict=True)
        on_targets = self.objective.remark_on_targets([of_group[0] for of_group in rewards])
        by_order = self.reference_rewards is not None  # quantiles have no outliers
        on_outliers = None if by_order else outlier_remark(names, rewards, self.uncalibrated)
        return [remark for remark in (on_targets, on_outliers) if remark]

    def load(self) -> nn.Module:
        """Return the policy, wrapped for packed log-probs. Dropout is off: the reference had none."""
        return LogProbModel(disable_dropout(load_causal_lm(self.spec.model_dir, for_engine=True)))

    def prepare(self, module: nn.Module) -> None:
        """Refuse prompts that an evaluation cannot sample from; compute the log-probs that the spec names no table of.

        These are the reference's for evaluations, and those under the policy that sampled, if the objective reads them:
        it is the policy before the first update.

        Raises:
            ModelError: A prompt with `kl.max_new_tokens` is longer than the model's rotary embedding allows.
        """
        spec = self.spec
        prompts = [group.prompt_ids for group in self.eval_groups[: spec.kl.prompts]]
        if prompts and not sharding():
            refuse_long_prompts(self.policy_of(module).model, prompts, spec.kl.max_new_tokens)
        forward_pass = ForwardPass(spec.training.mixed_precision, spec.training.max_tokens_per_batch, spec.t0_length)
        if spec.reference_path is None:
            self.reference = score_logps(self.reference_module(module), self.eval_groups, forward_pass)
        if self.requirements.sampling_logps:
            for groups in (self.train_groups, self.eval_groups):
                found = score_logps(module, groups, forward_pass)
                self.sampling |= {name: logps.responses for name, logps in found.items()}
            sampled = [torch.tensor(self.sampling[group.group_id]) for group in self.train_groups]
            policy = pad_sequence(sampled, batch_first=True)
            self.objective = self.objective.calibrate_to_samples(self.batch((policy,), self.train_groups))

    @property
    def starts_at_reference(self) -> bool:
        """Whether the policy starts as the reference model."""
        return self.spec.reference_model == self.spec.model_dir

    def reference_module(self, module: nn.Module) -> nn.Module:
        """Return the reference for forward passes, given the policy before the first update, which may be the same.

        Another model is loaded, and sharded where it does not fit.
        """
        if self.starts_at_reference:
            return module
        directory, dtype = self.spec.reference_model, weights_dtype(self.spec.training.mixed_precision)
        return place_for_scoring(lambda: LogProbModel(load_causal_lm(directory, dtype)), directory, dtype)

    def count_units(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count what the objective's loss is a mean over: groups or responses."""
        if self.objective.loss_is_mean_over == "responses":
            return float(sum(len(group.response_ids) for group in groups))
        return float(len(groups))

    def prepare_groups(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Note the progress for objectives with a schedule; measure the KL divergence in an evaluation."""
        self.progress = progress
        prompts = groups[: self.spec.kl.prompts]
        differs = progress > 0 or not self.starts_at_reference
        self.kl = self.estimate_kl(module, prompts) if prompts and differs and not module.training else {}
        return groups

    def estimate_kl(self, module: nn.Module, groups: Sequence[TokenizedGroup]) -> dict[str, float]:
        """Estimate KL(policy || reference) in nats per response, with its standard error.

        It is the mean of `log pi(y|x) - log pi_ref(y|x)` over one response per prompt, sampled from the policy. A
        sharded policy cannot be sampled from here: the result is empty.
        """
        if sharding():
            return {}
        training = self.spec.training
        policy, accelerator = self.policy_of(module), make_accelerator(training.mixed_precision)
        with torch.random.fork_rng(), accelerator.autocast():
            torch.manual_seed(training.seed)
            sampled = self.sampler.sample(policy.model, groups)
        room = max(training.max_tokens_per_batch, *(group.n_tokens for group in sampled))
        forward_pass = ForwardPass(training.mixed_precision, room, self.spec.t0_length)
        # Kept in memory during an evaluation only.
        reference = LogProbModel(load_causal_lm(self.spec.reference_model, weights_dtype(training.mixed_precision)))
        ours, theirs = (score_logps(model, sampled, forward_pass) for model in (policy, reference))
        ratios = torch.tensor([ours[name].responses[0] - theirs[name].responses[0] for name in ours])
        result = {"kl_to_reference": float(ratios.mean())}
        if len(ratios) > 1:
            result["kl_to_reference_stderr"] = float(ratios.std() / len(ratios) ** 0.5)
        return result

    def policy_of(self, module: nn.Module) -> Any:
        """Return the policy's `LogProbModel` inside a module that may be wrapped for training."""
        return extract_model_from_parallel(module)

    def compute(self, module: nn.Module, pack: Sequence[TokenizedGroup], device: torch.device) -> Outputs:
        """Return the log-probs of the responses, `[G, K]` in nats, and of the prompts if the objective reads them."""
        packed = pack_groups(pack, self.spec.t0_length).to(device)
        logps: SequenceLogProbs = module(packed, prompt_gradient=self.objective.prompt_gradient)
        return tuple(tensor for tensor in logps if tensor is not None)

    def loss(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LossOutput:
        """Return the objective's loss and metrics."""
        out = self.objective(self.batch(outputs, groups))
        return LossOutput(out.loss, out.metrics)

    def batch(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LogProbBatch:
        """Return the policy's log-probs with the known reference log-probs, rewards and ratings of the responses."""
        policy, device = SequenceLogProbs(*outputs), outputs[0].device
        lengths = response_lengths(groups).to(device)
        known = [self.reference[group.group_id] for group in groups if group.group_id in self.reference]
        reference = [of[1][: len(g.response_ids)] for of, g in zip(known, groups, strict=bool(known))]
        sampled = [] if self.reference_rewards is None else [self.reference_rewards.of(group) for group in groups]
        return LogProbBatch(
            policy=policy.responses,
            reference=_pad(reference, device),
            sampling=_pad([self.sampling.get(group.group_id) for group in groups], device),
            policy_prompt=policy.prompts,
            reference_prompt=torch.tensor([of[0] for of in known], device=device) if known else None,
            rewards=_pad([group.rewards for group in groups], device),
            ratings=_pad([group.ratings for group in groups], device),
            reference_rewards=_pad(sampled, device, math.nan),
            lengths=lengths,
            mask=lengths > 0,
            progress=self.progress,
        )

    def summarise(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Replace averaged moments by the correlations and the root mean square error they give, and add the KL."""
        result = derive_metrics({name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()})
        derived = {k: float(v) for k, v in result.items() if not k.endswith(("_square", "_times_log_ratio"))}
        return derived | self.kl

    def check_step_zero(self, metrics: Mapping[str, float]) -> None:
        """Check what holds before the first update: the policy is the one that sampled, and maybe the reference.

        Raises:
            TrainingError: A log-ratio is not 0 or the loss is not the objective's initial loss, beyond the noise of the
                compute precision.
        """
        tolerance = STEP_ZERO_TOLERANCE[self.spec.training.mixed_precision]
        if self.requirements.sampling_logps and (kl := metrics["approximate_kl"]) > 0.5 * tolerance**2:
            raise TrainingError(
                f"before the first update the policy is {kl:.4f} nats from the policy that sampled, instead of 0: "
                "computed twice with the same weights, the log-probs of the sampled responses differ by more than "
                f"{tolerance} nats. Train with mixed_precision: no"
            )
        if not self.starts_at_reference:
            return
        for name in ("log_ratio_chosen", "log_ratio_rejected", "prompt_log_ratio"):
            if abs(metrics.get(name, 0.0)) > tolerance:
                raise TrainingError(
                    f"before the first update {name} is {metrics[name]:.3f} nats instead of 0 (tolerance {tolerance}): "
                    "the reference log-probs come from other weights, another chat template or another precision. "
                    "Remove the cached reference log-probs and run the pipeline `alignment` again."
                )
        expected, strength = self.objective.expected_initial_loss(), self.objective.temperature or 0.0
        if expected is not None and abs(metrics["loss"] - expected) > strength * tolerance:
            raise TrainingError(
                f"before the first update the loss of {self.spec.objective} is {metrics['loss']:.4f} instead of "
                f"{expected:.4f}"
            )

    def remark(self, metrics: Mapping[str, float]) -> str | None:
        """Return a sentence if the chosen responses became less likely."""
        return likelihood_remark(self.spec.objective, metrics, self.train_groups, self.objective.temperature)

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        save_checkpoint(module.model, self.tokenizer, directory, weights)


def build_objective(spec: AlignmentSpec) -> tuple[Objective, Requirements]:
    """Return the spec's objective, on the pairs that the spec asks for, and what it needs.

    Raises:
        ParameterError: The objective or one of its parameters is unknown or out of range, or it reads no pairs and the
            spec asks for all pairs.
    """
    try:
        objective: Objective = make_objective(spec.objective, **spec.objective_parameters)
    except ValueError as error:
        raise ParameterError(str(error)) from error
    requirements = get_requirements(spec.objective, spec.objective_parameters)
    if requirements.reference_rewards and spec.reference_rewards_path is None:
        raise ParameterError(f"objective {spec.objective} needs reference rewards: set reference_rewards_path")
    if requirements.reference and spec.reference_path is None:
        raise ParameterError(f"objective {spec.objective} needs reference log-probs: set reference_path")
    if spec.pairs == "one":
        return objective, requirements
    if not isinstance(objective, PairwiseObjective):
        raise ParameterError(f"objective {spec.objective}: pairs: all is for the pairwise methods")
    return AllPairs(objective), requirements


def _with_reference_rewards(groups: MappedGroups, rewards: ReferenceRewards) -> MappedGroups:
    """Return the groups for whose prompts there are reference rewards; says how many are left out."""
    kept = groups.where(lambda group: bool(rewards.of(group))) if rewards.empty else groups
    if len(kept) < len(groups) and process_state().is_main_process:
        logger.warning(
            "%d of %d groups are left out: no response of the reference to their prompts got a reward",
            len(groups) - len(kept),
            len(groups),
        )
    return kept


def _pad(rows: Iterable[Sequence[float] | None], device: torch.device, padding: float = 0.0) -> Tensor | None:
    """Return rows of numbers as `[G, K]`, padded; None if there are none."""
    tensors = [torch.tensor(row) for row in rows if row is not None]
    return pad_sequence(tensors, batch_first=True, padding_value=padding).to(device) if tensors else None

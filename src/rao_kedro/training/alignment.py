"""Alignment: any objective of `rao_kedro.objectives` on packed prompt groups, against cached reference log-probs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.models.chat import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.logprobs import PackedLogProbs
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.objectives import GroupLogps, Objective, make_objective
from rao_kedro.objectives.calibration import solved
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import AlignmentSpec
from rao_kedro.training.loop import train
from rao_kedro.training.tables import read_groups, read_reference
from rao_kedro.training.task import LossOutput

# Mean log-ratio, in nats, that noise of the compute precision alone can cause before the first update.
STEP_ZERO_TOLERANCE = {"no": 0.01, "bf16": 1.5}


def build_objective(spec: AlignmentSpec, groups: Sequence[TokenizedGroup]) -> Objective:
    """Return the spec's objective, with `log_z0: auto` solved from the rewards of `groups`.

    Raises:
        ParameterError: The objective or one of its parameters is unknown or out of range.
    """
    parameters = solved(spec.objective_parameters, [group.rewards or [] for group in groups])
    if parameters != spec.objective_parameters:
        print(f"log_z0 solved from {len(groups)} groups: {parameters['log_z0']:.3f} nats", flush=True)
    try:
        return make_objective(spec.objective, **parameters)
    except ValueError as error:
        raise ParameterError(str(error)) from error


class Alignment:
    """A `Task`: moves the policy as the objective says."""

    selection_metric = "loss"
    greater_is_better = False

    def __init__(self, spec: AlignmentSpec) -> None:
        """Read the groups and the reference log-probs that the spec names."""
        self.spec = spec
        self.tokenizer = load_tokenizer(spec.model_dir)
        self.reference = read_reference(spec.reference_path, spec.groups_path)
        train_groups = read_groups(spec.groups_path, "train", "rewards")
        self.objective = build_objective(spec, train_groups)
        eval_groups = read_groups(spec.groups_path, "test", "rewards")
        self.train_groups, self.eval_groups = self._columns(train_groups), self._columns(eval_groups)

    def _columns(self, groups: list[TokenizedGroup]) -> list[TokenizedGroup]:
        if not self.objective.pairwise:
            return groups
        return [replace(g, response_ids=g.response_ids[:2], rewards=(g.rewards or [])[:2]) for g in groups]

    def load(self) -> nn.Module:
        """Return the policy, wrapped for packed log-probs. Dropout is off: the reference had none."""
        model = load_causal_lm(self.spec.model_dir)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return PackedLogProbs(model)

    def weigh(self, groups: Sequence[TokenizedGroup]) -> float:
        """Count the units that the objective's mean runs over: groups, or responses for a flat reduction."""
        if getattr(self.objective, "reduction", None) == "flat":
            return float(sum(len(group.response_ids) for group in groups))
        return float(len(groups))

    def loss(self, module: nn.Module, groups: Sequence[TokenizedGroup], device: torch.device) -> LossOutput:
        """Return the objective's loss and metrics."""
        batch = pack_groups(groups, self.spec.t0_length).to(device)
        policy = module(batch, prompt_gradient=self.objective.prompt_gradient)
        k = batch.mask.shape[1]
        rewards = [torch.tensor(group.rewards) for group in groups]
        reference = [torch.tensor(self.reference[g.group_id][1][: len(g.response_ids)]) for g in groups]
        out = self.objective(
            GroupLogps(
                policy=policy.responses,
                lengths=batch.lengths,
                mask=batch.mask,
                reference=pad_sequence(reference, batch_first=True)[:, :k].to(device),
                policy_prompt=policy.prompts,
                reference_prompt=torch.tensor([self.reference[g.group_id][0] for g in groups], device=device),
                rewards=pad_sequence(rewards, batch_first=True).to(device),
            )
        )
        return LossOutput(out.loss, out.metrics)

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

    def save(self, module: Any, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write the policy."""
        save_checkpoint(module.model, self.tokenizer, directory, weights)


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = AlignmentSpec.model_validate_json(Path(spec_path).read_text())
    train(Alignment(spec), spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

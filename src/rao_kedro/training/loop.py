"""The training loop: precision, accumulation, clipping, schedule, evaluation, logging, checkpoints.

Read top to bottom. It knows nothing about what a task learns.
"""

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from transformers import get_scheduler

from rao_kedro.errors import TrainingError
from rao_kedro.files import only_one_in
from rao_kedro.models.adapters import merged
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.processes import WARNING_PREFIX
from rao_kedro.schemas.training import LoRAParameters, TrainingParameters
from rao_kedro.training.batching import epoch_steps, packs, share_of_process
from rao_kedro.training.checkpoints import Checkpoints
from rao_kedro.training.distributed import process_state
from rao_kedro.training.forecast import flops_per_token, forecast, matmul_peak, peak_memory
from rao_kedro.training.interruption import Interruption
from rao_kedro.training.options import make_optimizer, prepared
from rao_kedro.training.progress import MetricsLog, Progress
from rao_kedro.training.task import Task


def train(task: Task, parameters: TrainingParameters, workspace: Path) -> None:
    """Train a task's model and leave `workspace/model` and `workspace/training_log.jsonl` behind.

    Called again after a kill, it goes on from the last checkpoint; SIGTERM makes it save one and stop.

    Raises:
        TrainingError: No training groups, a step-0 invariant is broken, or a loss or gradient is not finite.
    """
    is_main = process_state().is_main_process
    with Interruption() as interruption, only_one_in(workspace) if is_main else nullcontext():
        _train(task, parameters, workspace, interruption)


def _train(task: Task, parameters: TrainingParameters, workspace: Path, interruption: Interruption) -> None:
    if not task.train_groups:
        raise TrainingError("there are no training groups: see data_report and quarantined_rows for what was dropped")
    accelerator = Accelerator(mixed_precision=parameters.mixed_precision)
    set_seed(parameters.seed)
    module = prepared(task.load(), parameters, accelerator)
    optimizer = make_optimizer(module, parameters, accelerator.device)
    passes = task.passes_per_step
    steps_per_epoch = math.ceil(len(task.train_groups) / parameters.groups_per_step) * passes
    n_steps = steps_per_epoch * parameters.epochs
    schedule = get_scheduler(parameters.lr_scheduler, optimizer, math.ceil(parameters.warmup_ratio * n_steps), n_steps)
    module, optimizer = accelerator.prepare(module, optimizer)
    accelerator.register_for_checkpointing(schedule)

    task.prepare(module)
    accelerator.print(forecast(task, accelerator, module, parameters), flush=True)
    dtype = torch.bfloat16 if parameters.mixed_precision == "bf16" else torch.float32
    flops = flops_per_token(module) / (matmul_peak(accelerator.device, dtype) * accelerator.num_processes)
    checkpoints = Checkpoints(accelerator, workspace, parameters.checkpoints_kept)
    step, best = checkpoints.resume()
    log = MetricsLog(workspace / "training_log.jsonl", resume_at=step, is_main=accelerator.is_main_process)
    progress = Progress(task, parameters.epochs, done_steps=step, n_steps=n_steps, log=log, flops_per_token=flops)
    trainer = _Stepper(task, accelerator, module, parameters)

    def checkpoint_if_due(step: int) -> None:
        if step % passes or step == n_steps:  # a rollout is not part of a checkpoint
            return
        stopping, every = interruption.requested(accelerator), parameters.checkpoint_every * passes
        if stopping or (every and step % every == 0):
            checkpoints.save(step, best)
        if stopping:
            raise TrainingError(f"stopped by SIGTERM after step {step}; the same command goes on from there")

    if step == 0 and task.eval_groups:
        log.write(step=0, epoch=0.0, **{f"eval_{k}": v for k, v in trainer.evaluate(task.eval_groups, 0.0).items()})
    for epoch in range(step // steps_per_epoch, parameters.epochs):
        steps = epoch_steps(task.train_groups, parameters.groups_per_step, parameters.seed, epoch)
        steps = [groups for groups in steps for _ in range(passes)]
        for groups in steps[step - epoch * steps_per_epoch :]:
            module.train()
            started = time.perf_counter()
            metrics = trainer.forward_backward(groups, progress=step / n_steps)
            if step == 0:
                task.check_step_zero(metrics)
            metrics["grad_norm"] = float(accelerator.clip_grad_norm_(module.parameters(), parameters.max_grad_norm))
            _refuse_non_finite(metrics, groups, step, workspace)
            metrics["learning_rate"] = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            progress.report(
                step,
                epoch=step / steps_per_epoch,
                groups=groups,
                seconds=time.perf_counter() - started,
                peak_bytes=peak_memory(accelerator.device),
                metrics=metrics,
            )
            if step % steps_per_epoch:
                checkpoint_if_due(step)
        if task.eval_groups and ((epoch + 1) % parameters.eval_every_epochs == 0 or step == n_steps):
            evaluated = trainer.evaluate(task.eval_groups, step / n_steps)
            log.write(step=step, epoch=float(epoch + 1), **{f"eval_{k}": v for k, v in evaluated.items()})
            if accelerator.is_main_process and (remark := task.remark(evaluated)):
                print(f"{WARNING_PREFIX}{remark}", flush=True)
            score = evaluated[task.selection_metric] * (1 if task.greater_is_better else -1)
            if parameters.keep == "best" and (best is None or score > best):
                best = score
                _publish(accelerator, task, module, parameters.lora, workspace / "model")
        checkpoint_if_due(step)  # behind the evaluation, which a resumed run would skip
    if parameters.keep == "last" or best is None:
        _publish(accelerator, task, module, parameters.lora, workspace / "model")
    accelerator.wait_for_everyone()
    checkpoints.discard()
    accelerator.end_training()


class _Stepper:
    """One step's forward and backward passes, or an evaluation, over all processes."""

    def __init__(self, task: Task, accelerator: Accelerator, module: nn.Module, parameters: TrainingParameters) -> None:
        self.task, self.accelerator, self.module = task, accelerator, module
        self.max_tokens = parameters.max_tokens_per_batch

    def forward_backward(self, groups: Sequence[TokenizedGroup], progress: float) -> dict[str, float]:
        """Accumulate the gradient of the mean loss over `groups`; return the mean metrics."""
        return self._over_packs(groups, progress, backward=True)

    def evaluate(self, groups: Sequence[TokenizedGroup], progress: float) -> dict[str, float]:
        """Return the mean loss and metrics over `groups`."""
        self.module.eval()
        with torch.no_grad():
            return self._over_packs(groups, progress, backward=False)

    def _over_packs(self, groups: Sequence[TokenizedGroup], progress: float, backward: bool) -> dict[str, float]:
        accelerator, n_processes = self.accelerator, self.accelerator.num_processes
        groups = self.task.before_packs(self.module, groups, progress)
        mine = share_of_process(packs(groups, self.max_tokens), accelerator.process_index, n_processes)
        total = self.task.weigh(groups)
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=accelerator.device))
        for i, (pack, counts) in enumerate(mine):
            last = i == len(mine) - 1
            with accelerator.autocast(), _sync_gradients(accelerator, self.module, when=last):
                output = self.task.loss(self.module, pack, accelerator.device)
                share = self.task.weigh(pack) / total if counts else 0.0
                if backward:
                    # Data-parallel gradients are averaged over the processes; this loss is a sum over them.
                    accelerator.backward(output.loss * share * n_processes)
            sums["loss"] = sums["loss"] + output.loss.detach().float() * share
            for name, value in output.metrics.items():
                sums[name] = sums[name] + value.detach().float() * (len(pack) / len(groups) if counts else 0.0)
        names = sorted(sums)
        values = accelerator.reduce(torch.stack([sums[name] for name in names]), reduction="sum")
        return self.task.summarise(dict(zip(names, values.tolist(), strict=True)))


def _sync_gradients(accelerator: Accelerator, module: nn.Module, when: bool) -> AbstractContextManager[None]:
    return nullcontext() if when else accelerator.no_sync(module)


def _refuse_non_finite(
    metrics: Mapping[str, float], groups: Sequence[TokenizedGroup], step: int, workspace: Path
) -> None:
    if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
        return
    report = workspace / "non_finite_step.json"
    ids = [group.group_id for group in groups]
    report.write_text(json.dumps({"step": step, "group_ids": ids, "metrics": dict(metrics)}, default=str))
    raise TrainingError(
        f"step {step}: loss {metrics['loss']}, gradient norm {metrics['grad_norm']}; the group ids are in {report}. "
        "Lower the learning rate, or look for extreme rewards in these groups."
    )


def _publish(
    accelerator: Accelerator, task: Task, module: nn.Module, lora: LoRAParameters | None, directory: Path
) -> None:
    accelerator.wait_for_everyone()
    weights = accelerator.get_state_dict(module)  # where the module is sharded, every process takes part
    if accelerator.is_main_process:
        weights = weights if lora is None else merged(weights, lora)
        task.save(accelerator.unwrap_model(module), weights, directory)

"""The training loop: precision, accumulation, clipping, schedule, evaluation, logging, checkpoints.

Read top to bottom. It knows nothing about what a task learns.
"""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import torch
from accelerate.utils import set_seed

from rao_kedro.config.training import TrainingParameters
from rao_kedro.distributed import make_accelerator, sharding
from rao_kedro.errors import TrainingError
from rao_kedro.files import write_text
from rao_kedro.models.adapters import merge_lora
from rao_kedro.models.packing import TokenizedGroup, refuse_long_groups
from rao_kedro.progress import NOTICE
from rao_kedro.training.checkpoints import Checkpoints
from rao_kedro.training.forecast import flops_per_token, forecast, matmul_peak, peak_memory
from rao_kedro.training.interruption import Interruption
from rao_kedro.training.master_weights import MasterWeights, named_trained_parameters
from rao_kedro.training.options import compile_layers, make_optimizer, plan_compilation, prepare_module
from rao_kedro.training.parameter_groups import group_for_clipping, group_for_optimizer, refuse_clipping_apart
from rao_kedro.training.passes import Passes
from rao_kedro.training.progress import MetricsLog, Progress
from rao_kedro.training.schedule import epoch_steps, make_schedule, warmup_remark
from rao_kedro.training.task import Task
from rao_kedro.training.trained_state import TrainedState

logger = logging.getLogger(__name__)


def train(task: Task, parameters: TrainingParameters, workspace: Path) -> None:
    """Train a task's model; write `workspace/model` and `workspace/training_log.jsonl`.

    A killed run resumes from its last checkpoint. SIGTERM makes a run save a checkpoint and stop.

    Raises:
        TrainingError: There are no training groups, an invariant of step 0 is broken, or a loss or gradient is not
            finite.
        ModelError: A group is longer than the model's rotary embedding allows.
    """
    if not task.train_groups:
        raise TrainingError("there are no training groups: data_report and quarantined_rows say why")
    with Interruption() as interruption:
        run = _Run(task, parameters, workspace, interruption)
        with run.checkpoints:
            run.train()


class _Run:
    """One training run, from the start or the last checkpoint to the end."""

    def __init__(self, task: Task, parameters: TrainingParameters, workspace: Path, interruption: Interruption) -> None:
        """Load the model, log a forecast, and resume from a checkpoint if there is one."""
        self.task, self.parameters, self.workspace, self.interruption = task, parameters, workspace, interruption
        self.accelerator = accelerator = make_accelerator(parameters.mixed_precision)
        refuse_clipping_apart(task.parameter_groups)
        set_seed(parameters.seed)
        module = task.load()
        refuse_long_groups(module, chain(task.train_groups, task.eval_groups))
        module = prepare_module(module, parameters, accelerator)
        epoch_tokens = sum(group.n_tokens for group in task.train_groups) * task.passes_per_step
        compilation = plan_compilation(module, parameters, accelerator, epoch_tokens)
        if compilation.on:
            compile_layers(module, accelerator)
        self.masters = None
        if parameters.mixed_precision == "bf16_weights" and sharding() is None:  # an engine holds masters of its own
            self.masters = MasterWeights(module, accelerator.device)
        trained = group_for_optimizer(named_trained_parameters(module, self.masters), task.parameter_groups)
        optimizer = make_optimizer(trained, parameters, accelerator.device)
        passes = task.passes_per_step
        self.steps_per_epoch = math.ceil(len(task.train_groups) / parameters.batch_size) * passes
        self.n_steps = self.steps_per_epoch * parameters.epochs
        self.responses_per_prompt = task.responses_per_prompt
        self.schedule = make_schedule(optimizer, parameters, self.n_steps)
        if self.masters:  # no wrapper: gradients are averaged over the processes once per step
            self.module, self.optimizer = module, accelerator.prepare(optimizer)
        else:
            self.module, self.optimizer = accelerator.prepare(module, optimizer)
        trained_parameters = named_trained_parameters(accelerator.unwrap_model(self.module), self.masters)
        self.clipped = group_for_clipping(trained_parameters, task.parameter_groups, parameters)
        self.passes = Passes(task, accelerator, self.module, parameters.max_tokens_per_batch)

        task.prepare(self.module)
        is_main = accelerator.is_main_process
        forecasted = forecast(task, accelerator, self.module, parameters)  # every process takes part
        self.optimizer.zero_grad()
        if is_main:
            logger.info("%s; %s", forecasted, compilation.reason)
            if remark := warmup_remark(parameters, self.n_steps):
                logger.warning("%s", remark)
        dtype = torch.float32 if parameters.mixed_precision == "no" else torch.bfloat16
        flops = flops_per_token(self.module) / (matmul_peak(accelerator.device, dtype) * accelerator.num_processes)
        state = TrainedState(trained_parameters, self.optimizer, self.schedule)
        self.checkpoints = Checkpoints(accelerator, workspace, parameters.checkpoints_kept, state)
        self.step, self.best = self.checkpoints.resume()
        if is_main and self.step:
            logger.info("goes on after step %d of %d", self.step, self.n_steps, extra=NOTICE)
        if self.masters:
            self.masters.refresh()
        self.log = MetricsLog(workspace / "training_log.jsonl", resume_at=self.step, is_main=is_main)
        self.progress = Progress(
            task, parameters.epochs, self.step, self.n_steps, self.log, flops_per_token=flops, what=workspace.name
        )

    def train(self) -> None:
        """Take the remaining steps, and publish the model."""
        task, parameters = self.task, self.parameters
        if parameters.early_stopping_patience is not None and not task.eval_groups:
            raise TrainingError("training.early_stopping_patience is set, but there is nothing held out to evaluate on")
        if self.step == 0 and task.eval_groups:
            evaluated = self.passes.evaluate(task.eval_groups, 0.0)
            self.log.write(step=0, epoch=0.0, **{f"eval_{k}": v for k, v in evaluated.items()})
        for epoch in range(self.step // self.steps_per_epoch, parameters.epochs):
            step, done_passes = divmod(self.step - epoch * self.steps_per_epoch, task.passes_per_step)
            steps = epoch_steps(task.train_groups, parameters.batch_size, parameters.seed, epoch, first=step)
            repeated = (groups for groups in steps for _ in range(task.passes_per_step))
            for groups in islice(repeated, done_passes, None):
                if self._is_out_of_patience():
                    break
                self._take_step(groups)
                if task.eval_groups and self._evaluation_is_due():
                    self._evaluate()
                self._checkpoint_if_due()  # after the evaluation: a run resumed from it does not evaluate again
        if parameters.keep == "last" or self.best.score is None:
            self._publish()
        self.checkpoints.wait()
        self.accelerator.wait_for_everyone()  # the launcher removes the checkpoints once the run is marked as finished

    def _take_step(self, groups: Sequence[TokenizedGroup]) -> None:
        self.module.train()
        started = time.perf_counter()
        metrics = self.passes.forward_backward(groups, progress=self.step / self.n_steps)
        if self.step == 0:
            self.task.check_step_zero(metrics)
        if self.masters:
            self.masters.average_gradients()
        for metric, clipped_together, max_norm in self.clipped:
            metrics[metric] = float(self.accelerator.clip_grad_norm_(clipped_together, max_norm))
        _refuse_non_finite(metrics, groups, self.step, self.workspace)
        metrics["learning_rate"] = float(self.schedule.get_last_lr()[0])
        if self.responses_per_prompt is not None:
            metrics["responses_per_prompt"] = self.responses_per_prompt
        self.optimizer.step()
        if self.masters:
            self.masters.refresh()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.progress.report(
            self.step,
            epoch=self.step / self.steps_per_epoch,
            groups=groups,
            seconds=time.perf_counter() - started,
            peak_bytes=peak_memory(self.accelerator.device),
            metrics=metrics,
        )

    def _evaluation_is_due(self) -> bool:
        every = self.parameters.eval_every_steps
        if every is None:
            steps = self.parameters.eval_every_epochs * self.steps_per_epoch
        else:
            steps = every * self.task.passes_per_step
        return self.step % steps == 0 or self.step == self.n_steps

    def _is_out_of_patience(self) -> bool:
        patience = self.parameters.early_stopping_patience
        return patience is not None and self.best.since >= patience

    def _evaluate(self) -> None:
        """Log an evaluation, and publish the model if it is the best so far."""
        task, epoch = self.task, self.step / self.steps_per_epoch
        evaluated = self.passes.evaluate(task.eval_groups, self.step / self.n_steps)
        self.log.write(step=self.step, epoch=epoch, **{f"eval_{k}": v for k, v in evaluated.items()})
        if self.accelerator.is_main_process and (remark := task.remark(evaluated)):
            logger.warning("%s", remark)
        score = evaluated[task.selection_metric] * (1 if task.greater_is_better else -1)
        self.best = self.best.after(score)
        if self.parameters.keep == "best" and self.best.since == 0:
            self._publish()
        if self._is_out_of_patience() and self.accelerator.is_main_process:
            logger.info(
                "training stops after step %d of %d: no better %s in %d evaluations in a row",
                *(self.step, self.n_steps, task.selection_metric, self.best.since),
            )

    def _checkpoint_if_due(self) -> None:
        passes = self.task.passes_per_step
        if self.step % passes or self.step == self.n_steps:  # a rollout is not part of a checkpoint
            return
        stopping, every = self.interruption.requested(self.accelerator), self.parameters.checkpoint_every * passes
        if stopping or (every and self.step % every == 0):
            self.checkpoints.save(self.step, self.best)
        if stopping:
            self.checkpoints.wait()
            raise TrainingError(f"stopped by SIGTERM after step {self.step}: the same command resumes there")

    def _publish(self) -> None:
        accelerator, lora = self.accelerator, self.parameters.lora
        accelerator.wait_for_everyone()
        # Where the module is sharded, every process takes part.
        weights = self.masters.gather(self.module) if self.masters else accelerator.get_state_dict(self.module)
        if accelerator.is_main_process:
            weights = weights if lora is None else merge_lora(weights, lora)
            dtype = torch.bfloat16 if self.parameters.publishes_bf16 else torch.float32
            weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
            self.task.save(accelerator.unwrap_model(self.module), weights, self.workspace / "model")


def _refuse_non_finite(
    metrics: Mapping[str, float], groups: Sequence[TokenizedGroup], step: int, workspace: Path
) -> None:
    norms = [value for name, value in metrics.items() if name.endswith("grad_norm")]
    if all(map(math.isfinite, (metrics["loss"], *norms))):
        return
    report = workspace / "non_finite_step.json"
    ids = [group.group_id for group in groups]
    write_text(report, json.dumps({"step": step, "group_ids": ids, "metrics": dict(metrics)}, default=str))
    raise TrainingError(
        f"step {step}: the loss is {metrics['loss']}, the gradient norm {max(norms)}. {report} lists the "
        "step's groups. Lower the learning rate, or look for extreme rewards in these groups"
    )

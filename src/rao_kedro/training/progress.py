"""Reports each step: JSON lines in the training log, metrics in MLflow, a line in the log, a progress bar."""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rao_kedro.files import write_text
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.progress import report_progress
from rao_kedro.training.task import Task

logger = logging.getLogger(__name__)


class MetricsLog:
    """Appends metrics to a JSON-lines file and, if a run is active, to MLflow."""

    def __init__(self, path: Path, resume_at: int, is_main: bool) -> None:
        """Open the log, and drop the lines after `resume_at`: their steps will be taken again.

        Args:
            path: The JSON-lines file.
            resume_at: Steps already taken.
            is_main: Whether this process writes.
        """
        self.path, self.is_main = path, is_main
        if is_main:
            lines = path.read_text().splitlines(keepends=True) if path.exists() and resume_at else []
            whole = (line for line in lines if line.endswith("\n"))  # a kill may have cut the last one
            write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= resume_at))
        self.prefix = os.environ.get("RAO_KEDRO_METRIC_PREFIX", "")
        self.mlflow = None
        if is_main and os.environ.get("MLFLOW_RUN_ID"):
            import mlflow

            self.mlflow = mlflow.MlflowClient()

    def write(self, step: int, **metrics: float) -> None:
        """Append one line of metrics."""
        if not self.is_main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        if self.mlflow is not None:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            self.mlflow.log_batch(
                os.environ["MLFLOW_RUN_ID"],
                metrics=[Metric(f"{self.prefix}{name}", value, now, step) for name, value in metrics.items()],
            )


class Progress:
    """Measures speed and remaining time, and reports each step."""

    def __init__(
        self,
        task: Task,
        epochs: int,
        done_steps: int,
        n_steps: int,
        log: MetricsLog,
        flops_per_token: float,
        what: str = "model",
    ) -> None:
        """Start measuring.

        Args:
            task: The task, whose training groups define the number of tokens.
            epochs: Passes over the training groups.
            done_steps: Steps taken before a resume.
            n_steps: Steps of the whole run.
            log: Receives the metrics.
            flops_per_token: FLOPs of a forward and a backward pass over a token, divided by the peak FLOP/s of all
                processes together.
            what: Name of the trained model.
        """
        self.log, self.n_steps, self.flops_per_token, self.what = log, n_steps, flops_per_token, f"training {what}"
        passes = epochs * task.passes_per_step
        self.tokens_left = sum(g.n_tokens for g in task.train_groups) * passes * (1 - done_steps / n_steps)
        self.tokens_done, self.seconds = 0, 0.0
        if log.is_main:
            report_progress(self.what, done_steps, n_steps, "steps")

    def report(
        self,
        step: int,
        epoch: float,
        groups: Sequence[TokenizedGroup],
        seconds: float,
        peak_bytes: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Log a finished step.

        Args:
            step: Steps taken.
            epoch: Epochs done.
            groups: The step's groups.
            seconds: Duration without evaluations and checkpoints.
            peak_bytes: Peak memory so far on this process's device.
            metrics: Metrics of the task.
        """
        useful = sum(group.n_tokens for group in groups)
        self.tokens_done, self.seconds = self.tokens_done + useful, self.seconds + seconds
        self.tokens_left = max(0, self.tokens_left - useful)
        mean_speed = self.tokens_done / self.seconds
        mfu = useful / seconds * self.flops_per_token
        self.log.write(
            step=step,
            epoch=epoch,
            tokens_per_second=sum(group.n_row_tokens for group in groups) / seconds,
            useful_tokens_per_second=useful / seconds,
            mfu=mfu,
            peak_memory_gb=peak_bytes / 1e9,
            **metrics,
        )
        if self.log.is_main:
            shown = [
                f"{name} {metrics[name]:.3f}" for name in ("loss", "accuracy", "margin", "grad_norm") if name in metrics
            ]
            logger.info(
                f"step {step}/{self.n_steps}  {'  '.join(shown)}  {mean_speed:.0f} useful tokens/s  MFU {mfu:.0%}  "
                f"{peak_bytes / 1e9:.1f} GB  {self.tokens_left / mean_speed:.0f} s left"
            )
            report_progress(self.what, step, self.n_steps, "steps", mean_speed)

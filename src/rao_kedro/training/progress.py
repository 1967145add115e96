"""Progress of a run: the training log (one JSON object a line), MLflow, and a line per step on the console."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.training.task import Task


class MetricsLog:
    """Appends metrics to a JSON-lines file and, where a run is active, to MLflow."""

    def __init__(self, path: Path, resume_at: int, is_main: bool) -> None:
        """Open the log; lines after `resume_at` belong to steps that will be done again and are dropped.

        Args:
            path: The JSON-lines file.
            resume_at: The step at which training goes on.
            is_main: Whether this process writes.
        """
        self.path, self.is_main = path, is_main
        if is_main:
            lines = path.read_text().splitlines() if path.exists() and resume_at else []
            kept = [line for line in lines if json.loads(line)["step"] <= resume_at]
            path.write_text("".join(line + "\n" for line in kept))
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
    """Measures tokens/s and the time left, and reports each step."""

    def __init__(self, task: Task, epochs: int, done_steps: int, n_steps: int, log: MetricsLog) -> None:
        """Start the clock.

        Args:
            task: Its training groups tell how many tokens there are.
            epochs: Passes over them.
            done_steps: Steps done before a resume.
            n_steps: All steps of the run.
            log: Where metrics go.
        """
        self.log, self.n_steps, self.started_at = log, n_steps, time.monotonic()
        passes = epochs * task.passes_per_step
        self.tokens_left = sum(g.n_tokens for g in task.train_groups) * passes * (1 - done_steps / n_steps)
        self.tokens_done = 0
        self.last = self.started_at

    def report(self, step: int, epoch: float, groups: Sequence[TokenizedGroup], metrics: Mapping[str, float]) -> None:
        """Log a finished step. A prompt counts once per group, so every token counted is a useful one."""
        now = time.monotonic()
        tokens = sum(group.n_tokens for group in groups)
        self.tokens_done += tokens
        self.tokens_left = max(0, self.tokens_left - tokens)
        speed = tokens / (now - self.last)
        mean_speed = self.tokens_done / (now - self.started_at)
        self.last = now
        self.log.write(step=step, epoch=epoch, tokens_per_second=speed, **metrics)
        if self.log.is_main:
            shown = [
                f"{name} {metrics[name]:.3f}" for name in ("loss", "accuracy", "margin", "grad_norm") if name in metrics
            ]
            print(
                f"step {step}/{self.n_steps}  {'  '.join(shown)}  {mean_speed:.0f} tokens/s  "
                f"{self.tokens_left / mean_speed:.0f} s left",
                flush=True,
            )

"""Specs of the workers that let a model respond to the evaluation."""

from pathlib import Path
from typing import ClassVar

from rao_kedro.config.generation import GenerationSpec
from rao_kedro.config.servers import ServerParameters
from rao_kedro.errors import GenerationError
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.workers import Spec


class AnswersSpec(Spec):
    """Lets one model respond to the benchmarks.

    Attributes:
        method: Name of the model in tables.
        benchmarks: The chosen benchmarks.
        files: Directory of `evals.files.collect_files`; None reads the files where they are.
        workspace: The worker's own directory.
    """

    error = GenerationError
    advice = "Finished answers are kept: running again goes on from there."
    environment: ClassVar = {"TQDM_DISABLE": "1"}  # lm-evaluation-harness has a bar per subject of MMLU

    method: str
    benchmarks: AnsweredBenchmarks
    files: Path | None = None
    workspace: Path

    @property
    def title(self) -> str:  # noqa: D102
        return f"answers of {self.method}"

    @property
    def spec_path(self) -> Path:  # noqa: D102
        return self.workspace / f"{self.worker.rpartition('.')[2]}.json"

    @property
    def answers_path(self) -> Path:
        """Table of `BenchmarkAnswerTable`."""
        return self.workspace / "benchmark_answers.parquet"

    @property
    def downstream_scores_path(self) -> Path:
        """Table of `DownstreamScoreTable`."""
        return self.workspace / "downstream_scores.parquet"

    @property
    def downstream_samples_path(self) -> Path:
        """Table of `DownstreamSampleTable`."""
        return self.workspace / "downstream_samples.parquet"

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The tables that are written."""
        return self.answers_path, self.downstream_scores_path, self.downstream_samples_path


class PolicyAnswersSpec(AnswersSpec):
    """Lets a policy respond to the held-out prompts and the benchmarks.

    Attributes:
        held_out: Generation on the held-out prompts; the benchmarks take its model, backend and precision.
    """

    worker = "rao_kedro.evals.policy_answers"

    held_out: GenerationSpec

    @property
    def settings_path(self) -> Path:
        """JSON with everything that the responses depend on."""
        return self.workspace / "generation_settings.json"


class ServedAnswersSpec(AnswersSpec):
    """Lets a model behind a server respond to the benchmarks.

    Attributes:
        server: The model.
    """

    worker = "rao_kedro.evals.served_answers"

    server: ServerParameters

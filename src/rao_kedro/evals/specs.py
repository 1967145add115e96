"""Specs of the workers that let a model respond to the evaluation."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rao_kedro.config.generation import GenerationSpec
from rao_kedro.config.servers import ServerParameters
from rao_kedro.evals.parameters import AnsweredBenchmarks


class AnswersSpec(BaseModel):
    """All that one model writes for the benchmarks.

    Attributes:
        method: What tables call it.
        benchmarks: What it answers.
        files: Directory of `evals.files.collect_files`; None reads the files where they are.
        workspace: The worker's own directory.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    benchmarks: AnsweredBenchmarks
    files: Path | None = None
    workspace: Path

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
    """All that a policy writes for the evaluation.

    Attributes:
        held_out: Responses to the held-out prompts; its model, backend and precision are those of the benchmarks too.
    """

    held_out: GenerationSpec

    @property
    def settings_path(self) -> Path:
        """JSON with how all of it was written."""
        return self.workspace / "generation_settings.json"


class ServedAnswersSpec(AnswersSpec):
    """All that a model behind a server writes for the benchmarks.

    Attributes:
        server: The model.
    """

    server: ServerParameters

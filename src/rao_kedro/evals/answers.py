"""Lets a model respond to the chosen benchmarks, and writes the tables. Knows nothing about how the model generates."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.evals.benchmark import Exchange
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.files import with_collected_files
from rao_kedro.evals.responses import Response
from rao_kedro.evals.specs import AnswersSpec
from rao_kedro.evals.tables import BenchmarkAnswerTable
from rao_kedro.files import write_parquet
from rao_kedro.judges.client import Message

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from rao_kedro.evals.downstream.named_tasks import NamedTasks


class Writer(Protocol):
    """A model that responds; finished responses are kept."""

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, Response]:
        """Return the response to each dialogue.

        Args:
            name: Name of the set of dialogues.
            dialogues: Dialogues by name.
            sampling: How to sample.
        """
        ...

    def harness_model(self, own_tasks: bool = False) -> "LM":
        """Return the model as lm-evaluation-harness takes it.

        Args:
            own_tasks: Whether tasks of the harness are run, which make whole prompts; otherwise every prompt is a
                user's message.
        """
        ...


def load_named_tasks(spec: AnswersSpec, generating_only: bool = False) -> "NamedTasks | None":
    """Load the tasks of lm-evaluation-harness that a spec names, before anything is computed.

    Args:
        spec: The spec.
        generating_only: Whether the model gives no log-probs of text.

    Returns:
        The tasks; None where the spec names none.

    Raises:
        ParameterError: A task is unknown, or cannot be run.
        DataError: The rows of a task cannot be read.
    """
    if not spec.benchmarks.harness.tasks:
        return None
    from rao_kedro.evals.downstream.named_tasks import load_tasks

    return load_tasks(spec.benchmarks.harness, generating_only)


def write_answers(spec: AnswersSpec, writer: Writer, named: "NamedTasks | None" = None) -> None:
    """Write the three tables of a spec; the tables of benchmarks that are not chosen are empty.

    Args:
        spec: The chosen benchmarks, and where the tables go.
        writer: The model.
        named: What `load_named_tasks` returned for the spec.

    Raises:
        DataError: A file of a benchmark has another form.
        GenerationError: A prompt is too long, or the model cannot be loaded or reached.
    """
    benchmarks = with_collected_files(spec.benchmarks, spec.files)
    rows = [
        _row(spec.method, benchmark.name, exchange)
        for benchmark in benchmarks.judged
        for exchange in benchmark.respond(writer.write)
    ]
    write_parquet(spec.answers_path, pd.DataFrame(rows) if rows else BenchmarkAnswerTable.empty())
    found = []
    if benchmarks.downstream:
        from rao_kedro.evals.downstream import harness

        chosen = benchmarks.downstream, benchmarks.sources, benchmarks.limit, benchmarks.chain_of_thought
        found.append(harness.run(writer.harness_model(), *chosen))
    if named is not None:
        from rao_kedro.evals.downstream import named_tasks

        found.append(named_tasks.run(writer.harness_model(own_tasks=True), named, benchmarks.limit))
    for schema, path, tables in (
        (DownstreamScoreTable, spec.downstream_scores_path, [results.scores for results in found]),
        (DownstreamSampleTable, spec.downstream_samples_path, [results.samples for results in found]),
    ):
        joined = pd.concat(tables, ignore_index=True).assign(method=spec.method) if tables else schema.empty()
        write_parquet(path, joined)


def _row(method: str, benchmark: str, exchange: Exchange) -> dict[str, Any]:
    response = exchange.response
    return {
        "method": method,
        "benchmark": benchmark,
        "item_id": exchange.item_id,
        "turn": exchange.turn,
        "prompt": exchange.prompt,
        "answer": response.answer,
        "thinking": response.thinking,
        "finish_reason": response.finish_reason,
        "unscored_reason": response.unscored_reason,
    }

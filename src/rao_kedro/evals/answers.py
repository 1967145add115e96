"""What a model writes for AlpacaEval, MT-Bench and the downstream tasks. Knows nothing about how it writes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from rao_kedro.config.benchmarks import AnsweredBenchmarks, AnswersSpec
from rao_kedro.config.generation import SamplingParameters
from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
from rao_kedro.evals.files import read_json_rows, with_collected_files
from rao_kedro.evals.mt_bench.judge import answered
from rao_kedro.evals.mt_bench.questions import read_questions
from rao_kedro.evals.responses import Response
from rao_kedro.evals.tables import BenchmarkAnswerTable
from rao_kedro.files import write_parquet

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from rao_kedro.evals.downstream.named_tasks import NamedTasks

Message = Mapping[str, str]


class Writer(Protocol):
    """A model that answers; what it answered once is kept."""

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, Response]:
        """Return the response to each dialogue by its name.

        Args:
            name: Of all of them together.
            dialogues: By their names.
            sampling: How to sample.
        """
        ...

    def harness_model(self, own_tasks: bool = False) -> "LM":
        """Return it as a model of lm-evaluation-harness.

        Args:
            own_tasks: Whether the harness's own tasks are run, whose prompts are the harness's; else every prompt is a
                user's message.
        """
        ...


def named_tasks(spec: AnswersSpec, generating_only: bool = False) -> "NamedTasks | None":
    """Return the tasks of lm-evaluation-harness itself that a spec names, before anything is computed.

    Args:
        spec: Which benchmarks.
        generating_only: Whether the model gives no log-probs of text.

    Raises:
        ParameterError: A task is unknown, or cannot be run.
        DataError: The rows of one cannot be had.
    """
    if not spec.benchmarks.harness.tasks:
        return None
    from rao_kedro.evals.downstream.named_tasks import load_tasks

    return load_tasks(spec.benchmarks.harness, generating_only)


def write_benchmarks(spec: AnswersSpec, writer: Writer, named: "NamedTasks | None" = None) -> None:
    """Write the tables of a spec; empty ones of what is not chosen.

    Args:
        spec: Which benchmarks, and where the tables go.
        writer: What answers.
        named: The spec's `named_tasks`.

    Raises:
        DataError: A benchmark's files have no usable form.
        InferenceError: A prompt is too long, or the model cannot be had.
    """
    benchmarks = with_collected_files(spec.benchmarks, spec.files)
    rows = [
        {"method": spec.method, **row}
        for name, answer in ANSWERED.items()
        if name in benchmarks.names
        for row in answer(benchmarks, writer)
    ]
    write_parquet(spec.answers_path, pd.DataFrame(rows) if rows else BenchmarkAnswerTable.empty())
    found = []
    if benchmarks.downstream:
        from rao_kedro.evals.downstream import harness

        chosen = benchmarks.downstream, benchmarks.sources, benchmarks.limit, benchmarks.chain_of_thought
        found.append(harness.run(writer.harness_model(), *chosen))
    if named is not None:
        from rao_kedro.evals.downstream import named_tasks as own

        found.append(own.run(writer.harness_model(own_tasks=True), named, benchmarks.limit))
    for schema, path, tables in (
        (DownstreamScoreTable, spec.downstream_scores_path, [results.scores for results in found]),
        (DownstreamSampleTable, spec.downstream_samples_path, [results.samples for results in found]),
    ):
        joined = pd.concat(tables, ignore_index=True).assign(method=spec.method) if tables else schema.empty()
        write_parquet(path, joined)


def _alpaca_eval(benchmarks: AnsweredBenchmarks, writer: Writer) -> list[dict[str, Any]]:
    how = benchmarks.alpaca_eval
    instructions = [row["instruction"] for row in read_json_rows(how.baseline)[: benchmarks.limit]]
    sampling = SamplingParameters(temperature=how.temperature, max_tokens=how.max_tokens, seed=benchmarks.seed)
    dialogues = {str(i): [{"role": "user", "content": text}] for i, text in enumerate(instructions)}
    written = writer.write("alpaca_eval", dialogues, sampling)
    return [_row("alpaca_eval", str(i), 1, text, written[str(i)]) for i, text in enumerate(instructions)]


def _mt_bench(benchmarks: AnsweredBenchmarks, writer: Writer) -> list[dict[str, Any]]:
    how = benchmarks.mt_bench
    questions = read_questions(*map(read_json_rows, (how.questions, how.reference_answers)))[: benchmarks.limit]

    def write(name: str, dialogues: Mapping[str, Sequence[Message]], temperature: float) -> dict[str, Response]:
        sampling = SamplingParameters(temperature=temperature, max_tokens=how.max_tokens, seed=benchmarks.seed)
        return writer.write(name, dialogues, sampling)

    responses = answered(questions, write)
    return [
        _row("mt_bench", str(question.question_id), turn, question.turns[turn - 1], response)
        for question in questions
        for turn, response in enumerate(responses[question.question_id], start=1)
    ]


def _row(benchmark: str, item_id: str, turn: int, prompt: str, response: Response) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "item_id": item_id,
        "turn": turn,
        "prompt": prompt,
        "answer": response.answer,
        "thinking": response.thinking,
        "finish_reason": response.finish_reason,
        "unscored_reason": response.unscored_reason,
    }


ANSWERED = {"alpaca_eval": _alpaca_eval, "mt_bench": _mt_bench}

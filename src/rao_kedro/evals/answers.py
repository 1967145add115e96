"""All that a policy writes for the evaluation, with one start of its engine: `python -m rao_kedro.evals.answers SPEC`.

Held-out prompts, AlpacaEval, MT-Bench and the downstream tasks. What is finished is kept: a killed run goes on there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from rao_kedro.evals.benchmark_files import read_json_rows
from rao_kedro.evals.mt_bench import read_questions
from rao_kedro.evals.mt_bench_judge import answered
from rao_kedro.inference.generators import Generator, make_generator
from rao_kedro.inference.worker import generate_table
from rao_kedro.processes import worker_main
from rao_kedro.schemas.benchmarks import BenchmarkParameters, PolicyAnswersSpec
from rao_kedro.schemas.generation import SamplingParameters
from rao_kedro.schemas.tables import BenchmarkAnswers, DownstreamSamples, DownstreamScores

Message = Mapping[str, str]


def main(spec_path: str, make: Callable[..., Generator] = make_generator) -> None:
    """Do what a spec file says.

    Args:
        spec_path: JSON of a `PolicyAnswersSpec`.
        make: Makes the generator; called at most once, and only if something is missing.

    Raises:
        DataError: Prompts or a benchmark's files have no usable form.
        InferenceError: A prompt is too long, or the backend failed.
    """
    spec = PolicyAnswersSpec.model_validate_json(Path(spec_path).read_text())
    engine = _Engine(spec, make)
    generate_table(spec.held_out, engine.made)
    answers = [
        row
        for name, answer in ANSWERED.items()
        if name in spec.benchmarks.names.split()
        for row in answer(spec.benchmarks, engine)
    ]
    (pd.DataFrame(answers) if answers else BenchmarkAnswers.empty()).to_parquet(spec.answers_path)
    _run_downstream(spec, engine)


class _Engine:
    """A generator that is made once for whoever asks, with room for the longest of all prompts."""

    def __init__(self, spec: PolicyAnswersSpec, make: Callable[..., Generator]) -> None:
        self.spec = spec
        how = spec.held_out
        longest = max(how.max_model_len, spec.benchmarks.max_model_len if spec.benchmarks.names else 0)
        self.make = cache(lambda: make(how.backend, how.model_dir, dtype=how.dtype, max_model_len=longest))

    def made(self, *_: Any, **__: Any) -> Generator:
        """Return the generator; what a table asks for is what it has."""
        return self.make()

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, str]:
        """Return the answer to each dialogue by its name."""
        workspace = self.spec.workspace / "benchmarks"
        workspace.mkdir(parents=True, exist_ok=True)
        prompts = workspace / f"{name}_prompts.parquet"
        rows = [{"prompt_id": key, "messages": list(of), "requirements": "[]"} for key, of in dialogues.items()]
        pd.DataFrame(rows).to_parquet(prompts)
        paths = {"prompts_path": prompts, "output_path": workspace / f"{name}.parquet"}
        length = {"max_model_len": self.spec.benchmarks.max_model_len}
        spec = self.spec.held_out.model_copy(update={"sampling": sampling, **paths, **length})
        generate_table(spec, self.made)
        written = pd.read_parquet(spec.output_path)
        return dict(zip(written["prompt_id"], written["response"], strict=True))


def _alpaca_eval(benchmarks: BenchmarkParameters, engine: _Engine) -> list[dict[str, Any]]:
    how = benchmarks.alpaca_eval
    instructions = [row["instruction"] for row in read_json_rows(how.baseline)[: benchmarks.limit]]
    sampling = SamplingParameters(temperature=how.temperature, max_tokens=how.max_tokens, seed=benchmarks.seed)
    dialogues = {str(i): [{"role": "user", "content": text}] for i, text in enumerate(instructions)}
    written = engine.write("alpaca_eval", dialogues, sampling)
    return [
        {"benchmark": "alpaca_eval", "item_id": str(i), "turn": 1, "prompt": text, "answer": written[str(i)]}
        for i, text in enumerate(instructions)
    ]


def _mt_bench(benchmarks: BenchmarkParameters, engine: _Engine) -> list[dict[str, Any]]:
    how = benchmarks.mt_bench
    questions = read_questions(*map(read_json_rows, (how.questions, how.reference_answers)))[: benchmarks.limit]

    def write(name: str, dialogues: Mapping[str, Sequence[Message]], temperature: float) -> dict[str, str]:
        sampling = SamplingParameters(temperature=temperature, max_tokens=how.max_tokens, seed=benchmarks.seed)
        return engine.write(name, dialogues, sampling)

    answers = answered(questions, write)
    return [
        {
            "benchmark": "mt_bench",
            "item_id": str(question.question_id),
            "turn": turn,
            "prompt": question.turns[turn - 1],
            "answer": answers[question.question_id][turn - 1],
        }
        for question in questions
        for turn in (1, 2)
    ]


ANSWERED = {"alpaca_eval": _alpaca_eval, "mt_bench": _mt_bench}


def _run_downstream(spec: PolicyAnswersSpec, engine: _Engine) -> None:
    """Write the tables of the downstream tasks; empty ones if none is chosen."""
    benchmarks = spec.benchmarks
    scores: pd.DataFrame = DownstreamScores.empty()
    samples: pd.DataFrame = DownstreamSamples.empty()
    if benchmarks.downstream:
        from rao_kedro.evals.downstream import harness
        from rao_kedro.evals.harness_model import GeneratorLM

        how = spec.held_out.model_copy(update={"max_model_len": benchmarks.max_model_len})
        lm = GeneratorLM(how.model_dir, how, engine.make, spec.workspace / "benchmarks" / "downstream")
        scores, samples = harness.run(lm, benchmarks.downstream, benchmarks.sources, benchmarks.limit)
    scores.to_parquet(spec.downstream_scores_path)
    samples.to_parquet(spec.downstream_samples_path)


if __name__ == "__main__":
    worker_main(main)

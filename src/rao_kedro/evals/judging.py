"""Lets a judge look at what a policy answered to AlpacaEval and MT-Bench. Knows nothing of Kedro."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rao_kedro.evals.alpaca_judge import judged, pairs
from rao_kedro.evals.benchmark_files import read_json_rows
from rao_kedro.evals.mt_bench import JudgePrompts, read_questions
from rao_kedro.evals.mt_bench_judge import graded
from rao_kedro.inference.judge import Judge
from rao_kedro.schemas.benchmarks import BenchmarkParameters
from rao_kedro.schemas.tables import AlpacaEvalAnnotations, JudgeUsage, MTBenchJudgments


class Judgments(NamedTuple):
    """What a judge said of one policy.

    Attributes:
        alpaca_eval: Table of `AlpacaEvalAnnotations`.
        mt_bench: Table of `MTBenchJudgments`.
        usage: Table of `JudgeUsage`.
    """

    alpaca_eval: pd.DataFrame
    mt_bench: pd.DataFrame
    usage: pd.DataFrame


def judge_answers(policy: str, answers: pd.DataFrame, benchmarks: BenchmarkParameters, cache_dir: Path) -> Judgments:
    """Return what the judge says of the chosen benchmarks; empty tables for those that are not.

    Args:
        policy: Its name, which AlpacaEval calls the generator.
        answers: Table of `BenchmarkAnswers`.
        benchmarks: Which, and who judges.
        cache_dir: Where the judge's answers are kept.

    Raises:
        DataError: A benchmark's file cannot be had.
        InferenceError: The judge stays away; what it answered is kept.
    """
    annotations: pd.DataFrame = AlpacaEvalAnnotations.empty()
    judgments: pd.DataFrame = MTBenchJudgments.empty()
    used = []
    by_benchmark = dict(iter(answers.groupby("benchmark")))
    if (of_policy := by_benchmark.get("alpaca_eval")) is not None:
        judge = _judge(benchmarks, cache_dir)
        annotations = _alpaca_eval(policy, of_policy, benchmarks, judge)
        used.append(_usage("alpaca_eval", judge, benchmarks))
    if (of_policy := by_benchmark.get("mt_bench")) is not None:
        judge = _judge(benchmarks, cache_dir)
        judgments = _mt_bench(of_policy, benchmarks, judge)
        used.append(_usage("mt_bench", judge, benchmarks))
    return Judgments(annotations, judgments, pd.DataFrame(used) if used else JudgeUsage.empty())


def _judge(benchmarks: BenchmarkParameters, cache_dir: Path) -> Judge:
    assert benchmarks.judge is not None  # the parameters see to it
    return Judge(**benchmarks.judge.judge_options(cache_dir))


def _usage(benchmark: str, judge: Judge, benchmarks: BenchmarkParameters) -> dict[str, object]:
    assert benchmarks.judge is not None
    cost = judge.usage.cost(benchmarks.judge.prompt_price, benchmarks.judge.completion_price)
    return {"benchmark": benchmark, "judge": judge.model, **judge.usage._asdict(), "cost": cost}


def _alpaca_eval(policy: str, answers: pd.DataFrame, benchmarks: BenchmarkParameters, judge: Judge) -> pd.DataFrame:
    baseline = pd.DataFrame(read_json_rows(benchmarks.alpaca_eval.baseline))
    ours = answers.rename(columns={"prompt": "instruction", "answer": "output"}).assign(generator=policy)
    compared = pairs(baseline, ours)
    annotations = judged(compared, judge)
    swapped = (
        judged(compared, judge, swapped=True)["preference"] if benchmarks.alpaca_eval.both_orders else float("nan")
    )
    return annotations.assign(preference_swapped=swapped).rename_axis("index").reset_index()


def _mt_bench(answers: pd.DataFrame, benchmarks: BenchmarkParameters, judge: Judge) -> pd.DataFrame:
    how = benchmarks.mt_bench
    by_question = {int(str(key)): list(of["answer"]) for key, of in answers.sort_values("turn").groupby("item_id")}
    questions = read_questions(*map(read_json_rows, (how.questions, how.reference_answers)))
    answered = [question for question in questions if question.question_id in by_question]
    return graded(answered, by_question, JudgePrompts(read_json_rows(how.judge_prompts)), judge)

"""Lets judges look at what models answered to AlpacaEval and MT-Bench. Knows nothing of Kedro."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rao_kedro.evals.alpaca_judge import judged, pairs
from rao_kedro.evals.benchmark_files import read_json_rows
from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.evals.mt_bench import JudgePrompts, Question, read_questions
from rao_kedro.evals.mt_bench_judge import compared, graded
from rao_kedro.inference.judge import Judge
from rao_kedro.inference.vllm_server import stop_served
from rao_kedro.schemas.benchmarks import BenchmarkParameters, JudgeParameters
from rao_kedro.schemas.tables import AlpacaEvalAnnotations, JudgeUsage, MTBenchComparisons, MTBenchJudgments


class Judgments(NamedTuple):
    """What judges said.

    Attributes:
        alpaca_eval: Table of `AlpacaEvalAnnotations`.
        mt_bench: Table of `MTBenchJudgments`.
        comparisons: Table of `MTBenchComparisons`.
        usage: Table of `JudgeUsage`.
    """

    alpaca_eval: pd.DataFrame
    mt_bench: pd.DataFrame
    comparisons: pd.DataFrame
    usage: pd.DataFrame


def judge_answers(answers: pd.DataFrame, benchmarks: BenchmarkParameters, cache_dir: Path) -> Judgments:
    """Return what the judges say of the chosen benchmarks; empty tables for those that are not.

    A judge that vLLM serves here starts once, and has ended when this returns.

    Args:
        answers: Table of `BenchmarkAnswers` of all methods.
        benchmarks: Which, and who judges.
        cache_dir: Where the judges' answers are kept.

    Raises:
        DataError: A benchmark's file cannot be had.
        InferenceError: A judge stays away; what it answered is kept.
    """
    bench = _Bench(benchmarks, cache_dir)
    alpaca_eval, mt_bench = (answers[answers["benchmark"] == name] for name in ("alpaca_eval", "mt_bench"))
    try:
        annotations = bench.annotations(alpaca_eval, benchmarks.judge)
        judgments = bench.judgments(mt_bench)
        comparisons = bench.comparisons(mt_bench) if benchmarks.mt_bench.compare_with_sft else []
        if benchmarks.second_judge is not None:
            stop_served()  # two models may not fit beside each other
            annotations += bench.annotations(alpaca_eval, benchmarks.second_judge)
    finally:
        stop_served()
    return Judgments(
        _table(annotations, AlpacaEvalAnnotations),
        _table(judgments, MTBenchJudgments),
        _table(comparisons, MTBenchComparisons),
        _table([pd.DataFrame(bench.usage)] if bench.usage else [], JudgeUsage),
    )


def _table(parts: Sequence[pd.DataFrame], schema: Any) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else schema.empty()


class _Bench:
    """Asks judges method by method, and writes down what that took."""

    def __init__(self, benchmarks: BenchmarkParameters, cache_dir: Path) -> None:
        self.benchmarks, self.cache_dir = benchmarks, cache_dir
        self.usage: list[dict[str, object]] = []

    def annotations(self, answers: pd.DataFrame, judge: JudgeParameters | None) -> list[pd.DataFrame]:
        """Return AlpacaEval's annotations of each method."""
        if answers.empty:
            return []
        how = self.benchmarks.alpaca_eval
        baseline = pd.DataFrame(read_json_rows(how.baseline))
        found = []
        for method, of_method in answers.groupby("method", sort=False):
            asked = self._judge(judge)
            ours = of_method.rename(columns={"prompt": "instruction", "answer": "output"}).assign(generator=method)
            compared_with = pairs(baseline, ours)
            annotations = judged(compared_with, asked)
            swapped = judged(compared_with, asked, swapped=True)["preference"] if how.both_orders else float("nan")
            found.append(annotations.assign(preference_swapped=swapped).rename_axis("index").reset_index())
            self._note(str(method), "alpaca_eval", asked, judge)
        return found

    def judgments(self, answers: pd.DataFrame) -> list[pd.DataFrame]:
        """Return MT-Bench's scores of each method."""
        found = []
        for method, of_method in answers.groupby("method", sort=False):
            asked = self._judge(self.benchmarks.judge)
            by_question = _by_question(of_method)
            table = graded(self._questions(by_question), by_question, self._prompts(), asked)
            found.append(table.assign(method=method))
            self._note(str(method), "mt_bench", asked, self.benchmarks.judge)
        return found

    def comparisons(self, answers: pd.DataFrame) -> list[pd.DataFrame]:
        """Return whom the judge prefers of each method and SFT."""
        of_sft = _by_question(answers[answers["method"] == BASELINE])
        found = []
        for method, of_method in answers[answers["method"] != BASELINE].groupby("method", sort=False):
            asked = self._judge(self.benchmarks.judge)
            by_question = _by_question(of_method)
            table = compared(self._questions(by_question), by_question, of_sft, self._prompts(), asked)
            found.append(table.assign(method=method))
            self._note(str(method), "mt_bench, compared with SFT", asked, self.benchmarks.judge)
        return found

    def _judge(self, judge: JudgeParameters | None) -> Judge:
        assert judge is not None  # the parameters see to it
        return Judge(**judge.judge_options(self.cache_dir))

    def _note(self, method: str, benchmark: str, asked: Judge, judge: JudgeParameters | None) -> None:
        assert judge is not None
        cost = asked.usage.cost(judge.prompt_price, judge.completion_price)
        about = {"method": method, "benchmark": benchmark, "judge": asked.model, "identity": asked.identity}
        self.usage.append({**about, **asked.usage._asdict(), "cost": cost})

    def _questions(self, answered: dict[int, list[str]]) -> list[Question]:
        how = self.benchmarks.mt_bench
        questions = read_questions(*map(read_json_rows, (how.questions, how.reference_answers)))
        return [question for question in questions if question.question_id in answered]

    def _prompts(self) -> JudgePrompts:
        return JudgePrompts(read_json_rows(self.benchmarks.mt_bench.judge_prompts))


def _by_question(answers: pd.DataFrame) -> dict[int, list[str]]:
    """Return both answers of one method by the question's id."""
    return {int(str(key)): list(of["answer"]) for key, of in answers.sort_values("turn").groupby("item_id")}

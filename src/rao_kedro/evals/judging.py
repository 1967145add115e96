"""Lets judges look at what models answered to AlpacaEval and MT-Bench. Knows nothing of Kedro."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rao_kedro.config.benchmarks import BenchmarkParameters, JudgeParameters
from rao_kedro.evals.alpaca_eval.judge import judged, pairs
from rao_kedro.evals.alpaca_eval.tables import AlpacaEvalAnnotationTable
from rao_kedro.evals.files import read_json_rows
from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.evals.mt_bench.judge import Turn, compared, graded
from rao_kedro.evals.mt_bench.questions import JudgePrompts, Question, read_questions
from rao_kedro.evals.mt_bench.tables import MTBenchComparisonTable, MTBenchJudgmentTable
from rao_kedro.evals.tables import JudgeUsageTable
from rao_kedro.judges.judge import Judge, Rehearsal
from rao_kedro.judges.vllm_server import stop_servers

logger = logging.getLogger(__name__)


class Judgments(NamedTuple):
    """What judges said.

    Attributes:
        alpaca_eval: Table of `AlpacaEvalAnnotationTable`.
        mt_bench: Table of `MTBenchJudgmentTable`.
        comparisons: Table of `MTBenchComparisonTable`.
        usage: Table of `JudgeUsageTable`.
    """

    alpaca_eval: pd.DataFrame
    mt_bench: pd.DataFrame
    comparisons: pd.DataFrame
    usage: pd.DataFrame


def judge_answers(answers: pd.DataFrame, benchmarks: BenchmarkParameters, cache_dir: Path) -> Judgments:
    """Return what the judges say of the chosen benchmarks; empty tables for those that are not.

    What it will cost is logged before the first request. A judge that vLLM serves here starts once, and has ended when
    this returns.

    Args:
        answers: Table of `BenchmarkAnswerTable` of all methods.
        benchmarks: Which, and who judges.
        cache_dir: Where the judges' answers are kept.

    Raises:
        DataError: A benchmark's file cannot be had.
        InferenceError: A judge stays away, or costs more than it may; what it answered is kept.
    """
    bench = _Bench(answers, benchmarks)
    judges = [(how, Judge(how, cache_dir)) for how in (benchmarks.judge, benchmarks.second_judge) if how is not None]
    found = _Found([], [], [])
    try:
        for how, judge in judges if bench.has_answers else []:
            bench.ask(how, rehearsal := Rehearsal(judge))
            judge.forecast(rehearsal.requests.values())
        for how, judge in judges:
            stop_servers()  # two models may not fit beside each other
            found = _Found(*(before + more for before, more in zip(found, bench.ask(how, judge), strict=True)))
    finally:
        stop_servers()
    _warn_of_unscored(found)
    return Judgments(
        _table(found.annotations, AlpacaEvalAnnotationTable),
        _table(found.judgments, MTBenchJudgmentTable),
        _table(found.comparisons, MTBenchComparisonTable),
        _table([pd.DataFrame(bench.usage)] if bench.usage else [], JudgeUsageTable),
    )


def _warn_of_unscored(found: "_Found") -> None:
    """Say of each kind of judgment how many hold no score, and why most of these do not."""
    for kind, parts in found._asdict().items():
        rows = [max(row, key=len) for part in parts for row in part.filter(like="unscored_reason").to_numpy()]
        if reasons := Counter(filter(None, rows)).most_common():
            how_many = sum(n for _, n in reasons)
            logger.warning("%d of %d %s have no score, most often: %s", how_many, len(rows), kind, reasons[0][0])


def _table(parts: Sequence[pd.DataFrame], schema: Any) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else schema.empty()


class _Found(NamedTuple):
    """Tables of each method, of one judge or several."""

    annotations: list[pd.DataFrame]
    judgments: list[pd.DataFrame]
    comparisons: list[pd.DataFrame]


class _Bench:
    """Asks judges method by method, and writes down what that took."""

    def __init__(self, answers: pd.DataFrame, benchmarks: BenchmarkParameters) -> None:
        self.benchmarks = benchmarks
        self.alpaca_eval, self.mt_bench = (
            answers[answers["benchmark"] == name] for name in ("alpaca_eval", "mt_bench")
        )
        self.usage: list[dict[str, object]] = []

    @property
    def has_answers(self) -> bool:
        """Whether there is anything to judge."""
        return len(self.alpaca_eval) + len(self.mt_bench) > 0

    def ask(self, how: JudgeParameters, judge: Judge | Rehearsal) -> _Found:
        """Return what a judge says: of AlpacaEval, and of MT-Bench where it is the first one."""
        annotations = self.annotations(how, judge)
        if how is not self.benchmarks.judge:
            return _Found(annotations, [], [])
        return _Found(annotations, self.judgments(judge), self.comparisons(judge))

    def annotations(self, how: JudgeParameters, judge: Judge | Rehearsal) -> list[pd.DataFrame]:
        """Return AlpacaEval's annotations of each method."""
        if self.alpaca_eval.empty:
            return []
        baseline = pd.DataFrame(read_json_rows(self.benchmarks.alpaca_eval.baseline))
        found = []
        for method, of_method in self.alpaca_eval.groupby("method", sort=False):
            ours = of_method.rename(columns={"prompt": "instruction", "answer": "output"}).assign(generator=method)
            compared_with = pairs(baseline, ours)
            with self._noted(str(method), "alpaca_eval", judge):
                annotations = judged(compared_with, judge, verdict=how.verdict)
                swapped: dict[str, Any] = {"preference": float("nan"), "unscored_reason": ""}
                if self.benchmarks.alpaca_eval.both_orders:
                    swapped = dict(judged(compared_with, judge, swapped=True, verdict=how.verdict))
            both = annotations.assign(
                preference_swapped=swapped["preference"], unscored_reason_swapped=swapped["unscored_reason"]
            )
            found.append(both.rename_axis("index").reset_index())
        return found

    def judgments(self, judge: Judge | Rehearsal) -> list[pd.DataFrame]:
        """Return MT-Bench's scores of each method."""
        found = []
        for method, of_method in self.mt_bench.groupby("method", sort=False):
            texts, unanswered = _by_question(of_method)
            with self._noted(str(method), "mt_bench", judge):
                table = graded(self._questions(texts), texts, self._prompts(), judge, unanswered)
            found.append(table.assign(method=method))
        return found

    def comparisons(self, judge: Judge | Rehearsal) -> list[pd.DataFrame]:
        """Return whom the judge prefers of each method and SFT, where that is asked for."""
        if not self.benchmarks.mt_bench.compare_with_sft:
            return []
        is_baseline = self.mt_bench["method"] == BASELINE
        of_sft, not_by_sft = _by_question(self.mt_bench[is_baseline])
        found = []
        for method, of_method in self.mt_bench[~is_baseline].groupby("method", sort=False):
            texts, unanswered = _by_question(of_method)
            with self._noted(str(method), "mt_bench, compared with SFT", judge):
                table = compared(self._questions(texts), texts, of_sft, self._prompts(), judge, not_by_sft | unanswered)
            found.append(table.assign(method=method))
        return found

    @contextmanager
    def _noted(self, method: str, benchmark: str, judge: Judge | Rehearsal) -> Iterator[None]:
        """Write down what a judge is asked in here."""
        if isinstance(judge, Rehearsal):
            yield
            return
        before, prices = judge.usage, judge.prices
        yield
        used = judge.usage.since(before)
        about = {"method": method, "benchmark": benchmark, "judge": judge.model, "identity": judge.identity}
        cost = prices.cost(used.prompt_tokens, used.completion_tokens)
        reused_cost = prices.cost(used.reused_prompt_tokens, used.reused_completion_tokens)
        self.usage.append({**about, **used._asdict(), "cost": cost, "reused_cost": reused_cost})

    def _questions(self, answered: dict[int, list[str]]) -> list[Question]:
        how = self.benchmarks.mt_bench
        questions = read_questions(*map(read_json_rows, (how.questions, how.reference_answers)))
        return [question for question in questions if question.question_id in answered]

    def _prompts(self) -> JudgePrompts:
        return JudgePrompts(read_json_rows(self.benchmarks.mt_bench.judge_prompts))


def _by_question(answers: pd.DataFrame) -> tuple[dict[int, list[str]], dict[Turn, str]]:
    """Return both answers of one method by the question's id, and why there is none by question and turn.

    A judge of the second turn reads both answers.
    """
    texts: dict[int, list[str]] = {}
    unanswered: dict[Turn, str] = {}
    for key, of_question in answers.sort_values("turn").groupby("item_id"):
        question_id = int(str(key))
        texts[question_id] = list(of_question["answer"])
        missing = of_question[of_question["unscored_reason"] != ""]
        unanswered |= {
            (question_id, int(t)): r for t, r in zip(missing["turn"], missing["unscored_reason"], strict=True)
        }
    return texts, unanswered

"""MT-Bench as a benchmark: responses to two turns, scores and comparisons with SFT, metrics, figure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
from pydantic import Field

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.errors import DataError
from rao_kedro.evals.benchmark import (
    PERCENT,
    Benchmark,
    BenchmarkBlock,
    Exchange,
    ItemTurn,
    Judging,
    Metric,
    Write,
    describe_sample,
)
from rao_kedro.evals.leaderboard import BASELINE
from rao_kedro.evals.locations import read_json_rows
from rao_kedro.evals.mt_bench.judge import Turn, compare_answers, grade_answers
from rao_kedro.evals.mt_bench.questions import JudgePrompts, Question, read_questions
from rao_kedro.evals.mt_bench.tables import MTBenchComparisonTable, MTBenchJudgmentTable
from rao_kedro.evals.responses import Response
from rao_kedro.judges.bias import share_interval
from rao_kedro.judges.client import Message
from rao_kedro.judges.scores import MT_BENCH_SCALE
from rao_kedro.plotting import apply_style, assign_colors

# A commit, so that these files stay what they are.
FASTCHAT = (
    "https://raw.githubusercontent.com/lm-sys/FastChat/ae8abd20cbe1821100595d56d9ac4b137b31b53c/fastchat/llm_judge/data"
)
JUDGMENTS, COMPARISONS = "mt_bench_judgments", "mt_bench_comparisons"
WIN_RATE = "win_rate_vs_sft"


class MTBenchParameters(BenchmarkBlock):
    """MT-Bench.

    Attributes:
        questions: Location of FastChat's `question.jsonl`.
        reference_answers: Location of `reference_answer/gpt-4.jsonl`.
        judge_prompts: Location of `judge_prompts.jsonl`.
        max_tokens: Token limit of a response.
        compare_with_sft: The judge also names the better of a method's and SFT's answers, in both orders (FastChat's
            pairwise mode). This triples the requests.
    """

    questions: str = f"{FASTCHAT}/mt_bench/question.jsonl"
    reference_answers: str = f"{FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl"
    judge_prompts: str = f"{FASTCHAT}/judge_prompts.jsonl"
    max_tokens: int = Field(1024, ge=1)
    compare_with_sft: bool = False


class MTBench(Benchmark):
    """Scores from 1 to 10 of both turns of 80 questions in 8 categories."""

    name = "mt_bench"
    title = "MT-Bench"
    parameters_model = MTBenchParameters
    tables: ClassVar = {JUDGMENTS: MTBenchJudgmentTable, COMPARISONS: MTBenchComparisonTable}
    figure_dataset = "mt_bench_categories"
    main_metrics = ("score", "score_turn_1", "score_turn_2", WIN_RATE)

    parameters: MTBenchParameters

    @cached_property
    def questions(self) -> list[Question]:
        """All questions, with their reference answers."""
        return read_questions(*map(read_json_rows, (self.parameters.questions, self.parameters.reference_answers)))

    @cached_property
    def judge_prompts(self) -> JudgePrompts:
        """FastChat's judge prompts."""
        return JudgePrompts(read_json_rows(self.parameters.judge_prompts))

    def files(self) -> dict[str, str]:
        """Return the locations of the files."""
        return self.parameters.model_dump(include={"questions", "reference_answers", "judge_prompts"})

    def check_files(self) -> None:
        """Refuse questions without reference answers, and missing judge prompts."""
        with _name_files("questions or reference_answers"):
            questions = self.questions
        with _name_files("judge_prompts"):
            answers = ["", ""]
            for question in questions:
                self.judge_prompts.grading(question, answers)
                if self.parameters.compare_with_sft:
                    self.judge_prompts.comparing(question, answers, answers)

    def respond(self, write: Write) -> Iterable[Exchange]:
        """Return the responses to both turns of each question.

        The second turn shows the first answer without its thinking. It is not asked where the first response failed.
        """
        questions = self.questions[: self.limit]
        responses: dict[int, list[Response]] = {question.question_id: [] for question in questions}
        for turn in (1, 2):
            for temperature in sorted({question.temperature for question in questions}):
                dialogues = {}
                for question in questions:
                    before = responses[question.question_id]
                    if question.temperature != temperature:
                        continue
                    if any(response.unscored_reason for response in before):
                        before.append(Response("", unscored_reason="turn 1 has no response"))
                    else:
                        dialogues[str(question.question_id)] = _dialogue(question, before)
                sampling = SamplingParameters(
                    temperature=temperature, max_tokens=self.parameters.max_tokens, seed=self.seed
                )
                written = write(f"{self.name}_turn_{turn}_temperature_{temperature:g}", dialogues, sampling)
                for question_id in dialogues:
                    responses[int(question_id)].append(written[question_id])
        return [
            Exchange(str(question.question_id), question.turns[turn - 1], response, turn)
            for question in questions
            for turn, response in enumerate(responses[question.question_id], start=1)
        ]

    def judge(self, judging: Judging) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield the scores of each method, then the comparison of each method with SFT, where it is asked for."""
        for method, answers in judging.by_method():
            texts, unanswered = split_by_question(answers)
            with judging.record(method):
                table = grade_answers(self._asked(texts), texts, self.judge_prompts, judging.judge, unanswered)
            yield JUDGMENTS, table.assign(method=method)
        if not self.parameters.compare_with_sft:
            return
        is_sft = judging.answers["method"] == BASELINE
        sft, sft_unanswered = split_by_question(judging.answers[is_sft])
        for method, answers in judging._replace(answers=judging.answers[~is_sft]).by_method():
            texts, unanswered = split_by_question(answers)
            with judging.record(method, f"{self.name}, compared with SFT"):
                table = compare_answers(
                    self._asked(texts), texts, sft, self.judge_prompts, judging.judge, sft_unanswered | unanswered
                )
            yield COMPARISONS, table.assign(method=method)

    def _asked(self, answers: Mapping[int, Sequence[str]]) -> list[Question]:
        return [question for question in self.questions if question.question_id in answers]

    def metrics(self, tables: Mapping[str, pd.DataFrame]) -> dict[str, Metric]:
        """Return mean scores, overall, per turn and per category, and the win rate against SFT in percent.

        An item is a question. Its score is the mean of its turns; a win counts 100, a tie 50.
        """
        judgments, comparisons = tables[JUDGMENTS], tables[COMPARISONS]
        metrics = {}
        if len(judgments):
            judge = str(judgments["judge"].iloc[0])
            scopes = {"score": judgments}
            scopes |= {f"score_turn_{turn}": of_turn for turn, of_turn in judgments.groupby("turn")}
            scopes |= {f"score_{name}": of_category for name, of_category in judgments.groupby("category", sort=False)}
            for name, scope in scopes.items():
                by_question = scope.groupby("question_id")["score"].mean()
                metrics[name] = Metric(
                    by_question, MT_BENCH_SCALE, unscored=int(scope["score"].isna().sum()), judge=judge
                )
        if len(comparisons):
            judge = str(comparisons["judge"].iloc[0])
            won = comparisons["verdict"].map({"a": 100.0, "tie": 50.0, "b": 0.0})
            by_question = won.groupby(comparisons["question_id"]).mean()
            metrics[WIN_RATE] = Metric(by_question, PERCENT, unscored=int(won.isna().sum()), judge=judge)
        return metrics

    def judge_properties(self, runs: Mapping[str, Mapping[str, pd.DataFrame]]) -> Iterator[dict[str, Any]]:
        """Yield the share of comparisons with the same winner in both orders, where there are comparisons."""
        compared = {run: tables[COMPARISONS].set_index(["question_id", "turn"]) for run, tables in runs.items()}
        if len(comparisons := pd.concat(compared)):
            known = comparisons.dropna(subset="verdict")
            same = (known["verdict"] == known["winner"]).droplevel("turn")
            found = share_interval(same, self.seed)
            about = {"judge": comparisons["judge"].iloc[0], "metric": "mt_bench_consistent"}
            yield {**about, "value": found.mean, "low": found.low, "high": found.high, "n": found.n}

    def verdicts(self, tables: Mapping[str, pd.DataFrame]) -> dict[ItemTurn, str]:
        """Return the score of each answer."""
        return {
            (row["method"], str(row["question_id"]), row["turn"]): f"not judged: {row['unscored_reason']}"
            if row["unscored_reason"]
            else f"{row['score']:g} of 10, says {row['judge']}"
            for row in tables[JUDGMENTS].to_dict("records")
        }

    def figure(self, scores: pd.DataFrame) -> go.Figure:
        """Return the scores by category, a line per method."""
        figure = go.Figure()
        table = scores[scores["benchmark"] == self.name]
        colors = assign_colors(scores["method"])
        by_category = table[table["metric"].str.startswith("score_") & ~table["metric"].str.startswith("score_turn")]
        for method, rows in by_category.groupby("method", sort=False):
            categories, values = rows["metric"].str.removeprefix("score_").tolist(), rows["value"].tolist()
            figure.add_trace(
                go.Scatterpolar(
                    r=[*values, values[0]],
                    theta=[*categories, categories[0]],
                    name=str(method),
                    line={"color": colors[str(method)], "width": 2},
                )
            )
        figure.update_polars(radialaxis={"range": [0, 10], "angle": 90, "tickangle": 90})
        sample = describe_sample(table).replace("; 95 % intervals", "")  # the tables have them
        return apply_style(figure, f"{self.title}, mean score by category{sample}", height=480)


def split_by_question(answers: pd.DataFrame) -> tuple[dict[int, list[str]], dict[Turn, str]]:
    """Return both answers of one method by the question's id, and why an answer is missing by question and turn.

    A judge of the second turn reads both answers.

    Args:
        answers: Table of `BenchmarkAnswerTable` of one method.
    """
    texts: dict[int, list[str]] = {}
    unanswered: dict[Turn, str] = {}
    for key, of_question in answers.sort_values("turn").groupby("item_id"):
        question_id = int(str(key))
        texts[question_id] = list(of_question["answer"])
        missing = of_question[of_question["unscored_reason"] != ""]
        unanswered |= {
            (question_id, int(turn)): reason
            for turn, reason in zip(missing["turn"], missing["unscored_reason"], strict=True)
        }
    return texts, unanswered


def _dialogue(question: Question, responses: Sequence[Response]) -> list[Message]:
    """Return the dialogue up to the first turn without a response."""
    messages: list[Message] = []
    for turn, response in zip(question.turns, responses, strict=False):
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": response.answer}]
    return [*messages, {"role": "user", "content": question.turns[len(responses)]}]


@contextmanager
def _name_files(files: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{files} do not have the form of FastChat's ({type(error).__name__}: {error})") from error

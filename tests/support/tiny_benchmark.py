"""A third judged benchmark, registered from outside, and a run of the pipeline's part on benchmarks with it.

`python tiny_benchmark.py DIRECTORY URL`: parameters are built from the registry when they are first imported, so that
the benchmark is registered in a process of its own.
"""

import re
import sys
from pathlib import Path

import pandera.pandas as pa
import yaml
from pandera.typing import Series

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.data.tables import Table
from rao_kedro.errors import DataError
from rao_kedro.evals.benchmark import Benchmark, BenchmarkBlock, Exchange, Metric
from rao_kedro.evals.locations import read_json_rows
from rao_kedro.evals.registry import BENCHMARKS
from rao_kedro.judges.client import ChatSampling

POLITENESS = (0.0, 10.0)


class TinyParameters(BenchmarkBlock):
    """Where the questions are."""

    questions: str = "questions.json"


class TinyJudgmentTable(Table):
    """One row per question."""

    method: Series[str]
    item_id: Series[str]
    judge: Series[str]
    score: Series[float] = pa.Field(nullable=True, ge=0, le=10)


class Tiny(Benchmark):
    """How polite a response is, from 0 to 10."""

    name = "tiny"
    title = "Politeness"
    parameters_model = TinyParameters
    tables = {"tiny_judgments": TinyJudgmentTable}  # noqa: RUF012
    figure_dataset = "tiny_figure"
    main_metrics = ("politeness",)

    def files(self):
        return {"questions": self.parameters.questions}

    def check_files(self):
        if not all("text" in row for row in read_json_rows(self.parameters.questions)):
            raise DataError("questions: a row has no text")

    def respond(self, write):
        texts = [row["text"] for row in read_json_rows(self.parameters.questions)[: self.limit]]
        dialogues = {str(i): [{"role": "user", "content": text}] for i, text in enumerate(texts)}
        responses = write(self.name, dialogues, SamplingParameters(max_tokens=self.parameters.max_tokens))
        return [Exchange(str(i), text, responses[str(i)]) for i, text in enumerate(texts)]

    def judge(self, judging):
        for method, answers in judging.by_method():
            dialogues = [[{"role": "user", "content": f"Polite? {answer}"}] for answer in answers["answer"]]
            with judging.record(method):
                replies = judging.judge.answers(dialogues, ChatSampling(max_tokens=4))
            scores = [float(found[0]) if (found := re.findall(r"\d+", reply.text)) else None for reply in replies]
            table = answers[["method", "item_id"]].assign(judge=judging.judge.model, score=scores)
            yield "tiny_judgments", table.astype({"score": float})

    def metrics(self, tables):
        scores = tables["tiny_judgments"].set_index("item_id")["score"]
        if scores.empty:
            return {}
        judge = tables["tiny_judgments"]["judge"].iloc[0]
        return {"politeness": Metric(scores, POLITENESS, unscored=int(scores.isna().sum()), judge=judge)}

    def verdicts(self, tables):
        rows = tables["tiny_judgments"].to_dict("records")
        return {(row["method"], row["item_id"], 1): f"{row['score']:g} of 10 for politeness" for row in rows}


def main(directory: Path, url: str) -> None:
    """Run the pipeline's nodes on benchmarks with a served model that answers and a judge, both at a server."""
    BENCHMARKS[Tiny.name] = Tiny
    from kedro.io import DataCatalog, MemoryDataset
    from kedro.runner import SequentialRunner
    from launching import workers_in

    from rao_kedro.evals.downstream.tables import DownstreamSampleTable, DownstreamScoreTable
    from rao_kedro.evals.parameters import EvaluationParameters
    from rao_kedro.evals.tables import BenchmarkResponseTable
    from rao_kedro.pipelines.evaluation.pipeline import BENCHMARK_TAG as TAG
    from rao_kedro.pipelines.evaluation.pipeline import create_pipeline

    evaluation = EvaluationParameters.model_validate(
        {
            "generation": {"max_model_len": 64, "sampling": {"max_tokens": 8}},
            "benchmarks": {
                "names": "tiny",
                "tiny": {"questions": str(directory / "questions.json"), "max_tokens": 12},
                "judge": {"model": "judge", "base_url": url},
                "served_models": {"api": {"model": "served", "base_url": url}},
            },
        }
    )
    catalog_file = Path(__file__).parents[2] / "conf/base/catalog/evaluation.yml"
    config = re.sub(r"\$\{globals:[^}]*\}+", str(directory / "data"), catalog_file.read_text())
    catalog = DataCatalog.from_config(yaml.safe_load(config))
    for name, schema in (
        ("benchmark_answers_sft", BenchmarkResponseTable),
        ("downstream_scores_sft", DownstreamScoreTable),
        ("downstream_samples_sft", DownstreamSampleTable),
    ):
        catalog[name] = MemoryDataset(schema.empty())
    pipeline = create_pipeline({}, benchmarks=True).only_nodes_with_tags(TAG)
    values = {"workers": workers_in(directory), **dict(evaluation), **dict(evaluation.benchmarks)}
    for name in pipeline.inputs():
        if name.startswith("params:"):
            catalog[name] = MemoryDataset(values[name.rpartition(".")[2].removeprefix("params:")])
    SequentialRunner().run(pipeline, catalog)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

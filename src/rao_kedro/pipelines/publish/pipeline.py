"""Publishing as a pipeline: one namespace per run of a method."""

from collections.abc import Iterable

from kedro.pipeline import Node, Pipeline

from rao_kedro.config.run_names import method_of
from rao_kedro.pipelines.publish.nodes import assemble_model, push
from rao_kedro.pipelines.runs import bind
from rao_kedro.reporting.model_card import model_card

BLOCKS = ("model", "data", "reward_modeling", "publish")


def create_pipeline(runs: Iterable[str], benchmarks: bool) -> Pipeline:
    """Return the pipeline from `{run}.policy` and its scores to `{run}.publication`.

    Args:
        runs: The runs to publish.
        benchmarks: Whether there are scores on benchmarks.
    """
    return sum((_run(run, benchmarks) for run in runs), start=Pipeline([]))


def _run(name: str, benchmarks: bool) -> Pipeline:
    tables = {"data_report": "data_report", "leaderboard": "leaderboard", "reward_annotated": "reward_annotated@path"}
    if benchmarks:
        tables["benchmark_scores"] = "benchmark_scores"
    return Pipeline(
        [
            Node(
                bind(model_card, run=name),
                inputs={
                    **{block: f"params:{block}" for block in BLOCKS},
                    "method": "params:method",
                    "training_log": "training_log",
                    **tables,
                },
                outputs="model_card",
                name="write_model_card",
            ),
            Node(
                bind(assemble_model, run=name),
                inputs={"policy": "policy", "model_card": "model_card", "workers": "params:workers"},
                outputs="published_model",
                name="assemble_model",
            ),
            Node(
                bind(push, run=name),
                inputs={"published_model": "published_model", "publish": "params:publish"},
                outputs="publication",
                name="push",
            ),
        ],
        namespace=name,
        tags=["publish", name, method_of(name)],
        inputs={table: table for table in tables.values()} | {"training_log": f"training_log_{name}"},
        parameters={"params:method": f"params:alignment.{name}"}
        | {f"params:{block}": f"params:{block}" for block in (*BLOCKS, "workers")},
    )

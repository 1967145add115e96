"""Evaluation as a pipeline: one namespace per run of a method and one for SFT, then the comparison."""

from collections.abc import Mapping, Sequence

from kedro.pipeline import Node, Pipeline

from rao_kedro.config.run_names import method_of
from rao_kedro.evals import registry
from rao_kedro.evals.leaderboard import BASE, BASELINE
from rao_kedro.evals.parameters import AnsweredBenchmarks
from rao_kedro.pipelines.evaluation.benchmark_nodes import (
    JUDGE_USAGE,
    answer_with_served_models,
    collect_benchmark_files,
    compare_on_benchmarks,
    figure_datasets,
    judge_methods,
    judged_datasets,
    judgment_datasets,
    plot_benchmarks,
    write_benchmark_report,
)
from rao_kedro.pipelines.evaluation.nodes import (
    compare_methods,
    generate_responses,
    generate_with_benchmarks,
    plot_training,
    score_responses,
    write_report,
)
from rao_kedro.pipelines.runs import bind
from rao_kedro.reporting.figures import scores_by_method, scores_by_round

BENCHMARK_TAG = "benchmarks"  # tag of the nodes that judge and compare
BENCHMARK_FILES = "benchmark_files"  # output of the first of these nodes
NOT_ALIGNED = {BASELINE: "sft_model", BASE: "base_model"}  # datasets of what is measured beside the methods
SCORED = ("scored_generations", "held_out_logps")  # tables of a policy that comparisons read
ANSWERS = ("benchmark_answers", "downstream_scores", "downstream_samples")  # its tables of a run with benchmarks


def _parameters(block: str, *names: str) -> dict[str, str]:
    """Return the inputs for parameters of a block, with arguments that have the parameters' names."""
    return {name: f"params:{block}.{name}" for name in names}


def _collected() -> dict[str, str]:
    return _parameters("evaluation.benchmarks", "names", "limit", *registry.BENCHMARKS, "harness", "sources")


def _answered() -> dict[str, str]:
    return _parameters("evaluation.benchmarks", *AnsweredBenchmarks.model_fields)


def create_pipeline(
    runs: Mapping[str, str], benchmarks: bool, base_model: bool = False, last_rounds: Mapping[str, int] | None = None
) -> Pipeline:
    """Return the pipeline from `{run}.policy` to the leaderboards and the reports.

    Args:
        runs: Names of the policies that are compared with each other and with SFT, and the namespace of each one's
            training: `rao_round_1` is `rao.round_1.policy`.
        benchmarks: Whether policies respond to benchmarks, and are judged and compared on them.
        base_model: Whether the base model is measured beside them.
        last_rounds: Number of on-policy rounds of each method that trains in rounds.
    """
    policies = [BASELINE, *[BASE][:base_model], *runs]
    compared = _comparison(runs, policies, last_rounds or {})
    if benchmarks:
        compared += _benchmarks(policies)
    made = NOT_ALIGNED | {run: f"{source}.policy" for run, source in runs.items() if source != run}
    return sum((_policy(policy, made.get(policy), benchmarks) for policy in policies), start=compared)


def _policy(name: str, checkpoint: str | None, benchmarks: bool) -> Pipeline:
    """Return what measures a policy; its checkpoint is `{name}.policy` if no other dataset is named."""
    shared = [
        "sft_model",
        "reward_model",
        "evaluation_prompts@path",
        "reward_annotated@path",
        "reference_logprobs@path",
    ]
    files = {BENCHMARK_FILES: BENCHMARK_FILES} if benchmarks else {}
    inputs = {dataset: dataset for dataset in (*shared, *files)}
    if checkpoint is not None:
        inputs["policy"] = checkpoint
    nodes = [
        Node(
            bind(generate_with_benchmarks if benchmarks else generate_responses, run=name),
            inputs={
                "policy": "policy",
                "prompts": "evaluation_prompts@path",
                **_parameters("evaluation", "generation"),
                "workers": "params:workers",
                **(files | _answered() if benchmarks else {}),
            },
            outputs=["generations@pandas", "generation_settings", *(ANSWERS if benchmarks else ())],
            name="generate",
        ),
        Node(
            bind(score_responses, run=name),
            inputs={
                "policy": "policy",
                "sft_model": "sft_model",
                "reward_model": "reward_model",
                "generations": "generations@pandas",
                "generations_path": "generations@path",
                "reward_annotated": "reward_annotated@path",
                "reference_logprobs": "reference_logprobs@path",
                **_parameters("evaluation", "reward", "mixed_precision", "max_tokens_per_batch"),
                **_parameters("data", "t0_length"),
                "workers": "params:workers",
            },
            outputs=["scored_generations", "held_out_logps"],
            name="score",
        ),
    ]
    parameters = {read: read for node in nodes for read in node.inputs if read.startswith("params:")}
    return Pipeline(
        nodes,
        namespace=name,
        tags=["evaluation", name, method_of(name)],
        inputs=inputs,
        outputs={table: f"{table}_{name}" for table in (*SCORED, *(ANSWERS if benchmarks else ()))},
        parameters=parameters,
    )


def _of_each(policies: Sequence[str], *tables: str) -> dict[str, str]:
    """Return the inputs for the tables of each policy, with arguments that have the datasets' names."""
    return {f"{table}_{policy}": f"{table}_{policy}" for table in tables for policy in policies}


def _benchmarks(policies: Sequence[str]) -> Pipeline:
    answers, samples = "benchmark_answers", "downstream_samples"
    served = [f"{table}_served" for table in (answers, "downstream_scores", samples)]
    judgments = {dataset: dataset for dataset in judgment_datasets()}
    figures = {dataset: dataset for dataset in figure_datasets().values()}
    methods = [*policies, "served"]
    return Pipeline(
        [
            Node(
                collect_benchmark_files,
                inputs={
                    **_collected(),
                    "workers": "params:workers",
                },
                outputs=BENCHMARK_FILES,
                name="collect_benchmark_files",
            ),
            Node(
                answer_with_served_models,
                inputs={
                    **_answered(),
                    **_parameters("evaluation.benchmarks", "served_models"),
                    BENCHMARK_FILES: BENCHMARK_FILES,
                    "workers": "params:workers",
                },
                outputs=served,
                name="answer_with_served_models",
            ),
            Node(
                judge_methods,
                inputs={
                    **_parameters("evaluation.benchmarks", *registry.BENCHMARKS, "judge", "second_judge"),
                    BENCHMARK_FILES: BENCHMARK_FILES,
                    "workers": "params:workers",
                    **_of_each(methods, answers),
                },
                outputs={dataset: dataset for dataset in judged_datasets()},
                name="judge_methods",
            ),
            Node(
                compare_on_benchmarks,
                inputs={
                    **_parameters("evaluation.benchmarks", "limit", *registry.BENCHMARKS, "seed"),
                    BENCHMARK_FILES: BENCHMARK_FILES,
                    **judgments,
                    **_of_each(methods, answers, "downstream_scores", samples),
                },
                outputs=["benchmark_scores", "judge_report"],
                name="compare_on_benchmarks",
            ),
            Node(plot_benchmarks, inputs="benchmark_scores", outputs=figures, name="plot_benchmarks"),
            Node(
                write_benchmark_report,
                inputs={
                    **_parameters("evaluation", "examples"),
                    **{name: name for name in ("benchmark_scores", "judge_report", JUDGE_USAGE)},
                    **judgments,
                    **figures,
                    **_of_each(methods, answers, samples),
                },
                outputs="benchmark_report",
                name="write_benchmark_report",
            ),
        ],
        tags=["evaluation", BENCHMARK_TAG],
    )


def _comparison(runs: Mapping[str, str], policies: Sequence[str], last_rounds: Mapping[str, int]) -> Pipeline:
    scored, held_out = _of_each(policies, "scored_generations"), _of_each(policies, "held_out_logps")
    logs = {
        f"training_log_{run}": f"training_log_{run}" if run == source else f"{source}.training_log"
        for run, source in runs.items()
    }
    whole_runs = [run for run, source in runs.items() if source == run]
    in_rounds = bool(last_rounds)
    by_round = bind(scores_by_round, last=dict(last_rounds))
    over_rounds = Node(by_round, inputs="leaderboard", outputs="scores_by_round", name="plot_rounds")
    return Pipeline(
        [
            *[over_rounds][:in_rounds],
            Node(
                bind(compare_methods, policies=list(policies)),
                inputs={**_parameters("evaluation", "seed", "generation"), **scored, **held_out, **logs},
                outputs="leaderboard",
                name="compare_methods",
            ),
            Node(scores_by_method, inputs="leaderboard", outputs="scores_by_method", name="plot_scores"),
            Node(
                plot_training,
                inputs={run: f"training_log_{run}" for run in whole_runs},
                outputs="training_dynamics",
                name="plot_training",
            ),
            Node(
                write_report,
                inputs={
                    **_parameters("evaluation", "examples"),
                    "board": "leaderboard",
                    "scores": "scores_by_method",
                    "dynamics": "training_dynamics",
                    "calibration": "reward_calibration",
                    "reward_report": "reward_report",
                    "feasibility": "target_feasibility",
                    "data_report": "data_report",
                    **({"over_rounds": "scores_by_round"} if in_rounds else {}),
                    **{policy: f"scored_generations_{policy}" for policy in policies},
                },
                outputs="report",
                name="write_report",
            ),
        ],
        tags="evaluation",
    )

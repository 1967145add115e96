"""Alignment as a pipeline: one reference pass, then one namespace per run of a method, and one per round of it."""

from collections.abc import Collection, Mapping

from kedro.pipeline import Node, Pipeline

from rao_kedro.config.run_names import method_of, round_namespace
from rao_kedro.objectives import Requirements, get_requirements
from rao_kedro.pipelines.alignment.nodes import (
    align,
    report_feasibility,
    report_log_z0,
    reward_reference,
    sample_reference,
    score_reference,
)
from rao_kedro.pipelines.alignment.round_nodes import (
    align_with_ppo,
    annotate_samples,
    collect_rounds,
    sample_responses,
)
from rao_kedro.pipelines.runs import Rounds, bind
from rao_kedro.reporting.figures import training_dynamics_of_one

# The parameters that every training reads, by the arguments of `align`.
_OF_TRAINING = {"kl": "params:kl_to_reference", "t0_length": "params:data.t0_length", "workers": "params:workers"}


def create_pipeline(
    objectives: Mapping[str, str], estimating: Collection[str] = (), rounds: Mapping[str, Rounds] | None = None
) -> Pipeline:
    """Return the pipeline from `reward_annotated` to `{run}.policy`.

    Args:
        objectives: The objective of each run.
        estimating: Names of the runs that estimate log_z0 from rewards of the reference's responses.
        rounds: The rounds of each run that trains in on-policy rounds.
    """
    rounds = rounds or {}
    needed = {name: run_requirements(objective, name in estimating) for name, objective in objectives.items()}
    shared = [_score_reference("sft_model", "reward_annotated@path", "reference_logprobs@path")]
    of_rao = ["params:alignment.rao.parameters", "params:alignment.rao.responses_per_prompt"]
    estimates, samples = "rao" in estimating, any(of.reference_rewards for of in needed.values())
    if samples or not estimates:  # else RAO is not among the runs, and nobody knows its log_z0
        estimated = ["log_z0_report"] if estimates else []
        shared.append(
            Node(
                report_feasibility,
                inputs=["reward_annotated@path", "reference_logprobs@path", *of_rao, *estimated],
                outputs="target_feasibility",
                name="report_feasibility",
            )
        )
    if samples:
        shared += reference_rewards().nodes
        shared.append(
            Node(
                report_log_z0,
                inputs=["reference_rewards@path", "reward_annotated@path", *of_rao],
                outputs="log_z0_report",
                name="report_log_z0",
            )
        )
    runs = [
        _in_rounds(name, requirements, rounds[name]) if name in rounds else _run(name, requirements)
        for name, requirements in needed.items()
    ]
    return sum(runs, start=Pipeline(shared, tags="alignment"))


def _score_reference(model: str, groups: str, table: str) -> Node:
    return Node(
        score_reference,
        inputs={
            "sft_model": model,
            "reward_annotated": groups,
            "parameters": "params:reference",
            "t0_length": "params:data.t0_length",
            "workers": "params:workers",
        },
        outputs=table,
        name="score_reference",
    )


def run_requirements(objective: str, estimates_log_z0: bool) -> Requirements:
    """Return what a run of an objective needs."""
    return get_requirements(objective, {"log_z0": "estimated"} if estimates_log_z0 else None)


def reference_rewards() -> Pipeline:
    """Return the pipeline from `reward_annotated` to `reference_rewards`, which all methods share."""
    return Pipeline(
        [
            Node(
                sample_reference,
                inputs={
                    "sft_model": "sft_model",
                    "reward_annotated": "reward_annotated@path",
                    "generation": "params:reference_rewards.generation",
                    "workers": "params:workers",
                },
                outputs="reference_generations@path",
                name="sample_reference",
            ),
            Node(
                reward_reference,
                inputs={
                    "sft_model": "sft_model",
                    "reward_model": "reward_model",
                    "reward_annotated": "reward_annotated@path",
                    "reference_generations": "reference_generations@path",
                    "reward": "params:reward_modeling.reward",
                    "mixed_precision": "params:reward_modeling.training.mixed_precision",
                    "workers": "params:workers",
                },
                outputs=["reference_rewards@path", "unscored_reference_responses"],
                name="reward_reference",
            ),
        ],
        tags="alignment",
    )


def _run(name: str, requirements: Requirements) -> Pipeline:
    shared = ["sft_model", "reward_annotated@path"]
    needed = {}  # last: Kedro matches what a node reads with the names of its function by their order
    if requirements.reference:
        needed["reference_logprobs"] = "reference_logprobs@path"
    if requirements.reads == "rollouts":
        needed["reward_model"] = "reward_model"
    if requirements.reference_rewards:
        needed["reference_rewards"] = "reference_rewards@path"
    return Pipeline(
        [
            Node(
                bind(align, run=name),
                inputs={
                    "sft_model": "sft_model",
                    "reward_annotated": "reward_annotated@path",
                    "method": "params:method",
                    **_OF_TRAINING,
                    **needed,
                },
                outputs=["policy", "training_log"],
                name="train",
            ),
            Node(training_dynamics_of_one, inputs="training_log", outputs="training_dynamics", name="plot_training"),
        ],
        namespace=name,
        tags=["alignment", name, method_of(name)],
        inputs={dataset: dataset for dataset in (*shared, *needed.values())},
        outputs={"training_log": f"training_log_{name}"},
        parameters={"params:method": f"params:alignment.{name}"} | {of: of for of in _OF_TRAINING.values()},
    )


def _in_rounds(name: str, requirements: Requirements, rounds: Rounds) -> Pipeline:
    spaces = [round_namespace(name, k) for k in range(1, rounds.n + 1)]
    logs = {f"log_of_round_{k}": f"{space}.training_log" for k, space in enumerate(spaces, 1)}
    collected = Pipeline(
        [
            Node(
                collect_rounds,
                inputs={"policy": "last_policy", **{log: log for log in logs}},
                outputs=["policy", "training_log"],
                name="collect_rounds",
            ),
            Node(training_dynamics_of_one, inputs="training_log", outputs="training_dynamics", name="plot_training"),
        ],
        namespace=name,
        tags=["alignment", name, method_of(name)],
        inputs={"last_policy": f"{spaces[-1]}.policy", **logs},
        outputs={"training_log": f"training_log_{name}"},
    )
    every = [_round(name, requirements, rounds, k) for k in range(1, rounds.n + 1)]
    return sum(every, start=collected)


def _round(name: str, requirements: Requirements, rounds: Rounds, k: int) -> Pipeline:
    """Return round `k` of a run: it samples, annotates, scores the reference, and trains."""
    space = round_namespace(name, k)
    previous = "sft_model" if k == 1 else f"{round_namespace(name, k - 1)}.policy"
    reads = {  # datasets of others, by what they are called within the round
        "given@path": "reward_annotated@path",
        "sft_model": "sft_model",
        "reward_model": "reward_model",
        "reference_rewards@path": "reference_rewards@path",
        "previous_policy": previous,
        "reference_model": previous if rounds.moves_reference else "sft_model",
        "first_round@path": f"{round_namespace(name, 1)}.reward_annotated@path",
        "previous_value_network": "reward_model" if k == 1 else f"{round_namespace(name, k - 1)}.value_network",
        "previous_log": f"{round_namespace(name, k - 1)}.training_log",
    }
    of_rounds = {"rounds": "params:rounds", "training_seed": "params:training_seed", "workers": "params:workers"}
    of_rewards = {
        "reward": "params:reward_modeling.reward",
        "mixed_precision": "params:reward_modeling.training.mixed_precision",
        "pairing": "params:data.pairing",
        "seed": "params:data.seed",
    }
    nodes = [
        Node(
            bind(sample_responses, round_=k),
            inputs={"policy": "previous_policy", "reward_annotated": "given@path", **of_rounds},
            outputs="generations@path",
            name="generate",
        ),
        Node(
            bind(annotate_samples, run=space, round_=k, pairs=requirements.reads == "pairs"),
            inputs={
                "generations": "generations@path",
                "policy": "previous_policy",
                "sft_model": "sft_model",
                "reward_model": "reward_model",
                "reward_annotated": "given@path",
                **of_rounds,
                **of_rewards,
            },
            outputs=["reward_annotated@path", "unscored_responses"],
            name="annotate",
        ),
        _train_ppo(space, k) if requirements.reads == "rollouts" else _train(space, requirements, rounds, k),
    ]
    if requirements.reference:
        nodes.append(_score_reference("reference_model", "reward_annotated@path", "reference_logprobs@path"))
    read = {stem for node in nodes for stem in node.inputs}
    parameters = {of: of for of in (*of_rewards.values(), *_OF_TRAINING.values(), "params:reference") if of in read}
    return Pipeline(
        nodes,
        namespace=space,
        tags=["alignment", name, method_of(name)],
        inputs={inner: outer for inner, outer in reads.items() if inner in read},
        parameters=parameters
        | {
            "params:method": f"params:alignment.{name}",
            "params:rounds": f"params:alignment.{name}.rounds",
            "params:training_seed": f"params:alignment.{name}.training.seed",
        },
    )


def _train(space: str, requirements: Requirements, rounds: Rounds, k: int) -> Node:
    """Return the training of a round, from the policy that it samples from or from the SFT model."""
    optional = {"reference_logprobs": "reference_logprobs@path"} if requirements.reference else {}
    if requirements.reference_rewards:
        optional["reference_rewards"] = "reference_rewards@path"
    if k > 1 and rounds.warm_start and not rounds.moves_reference:
        optional["start"] = "previous_policy"
    if k > 1 and not rounds.moves_reference:
        optional["first_round"] = "first_round@path"
    return Node(
        bind(align, run=space),
        inputs={
            "sft_model": "reference_model",
            "reward_annotated": "reward_annotated@path",
            "method": "params:method",
            **_OF_TRAINING,
            **optional,
        },
        outputs=["policy", "training_log"],
        name="train",
    )


def _train_ppo(space: str, k: int) -> Node:
    return Node(
        bind(align_with_ppo, run=space),
        inputs={
            "policy": "previous_policy",
            "value_network": "previous_value_network",
            "sft_model": "reference_model",
            "reward_annotated": "reward_annotated@path",
            "reference_logprobs": "reference_logprobs@path",
            "method": "params:method",
            "t0_length": "params:data.t0_length",
            "workers": "params:workers",
            **({"previous_log": "previous_log"} if k > 1 else {}),
        },
        outputs=["policy", "training_log", "value_network"],
        name="train",
    )

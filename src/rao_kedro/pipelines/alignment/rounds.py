"""On-policy rounds as a pipeline: one namespace per round of a run, and what the run makes of them."""

from kedro.pipeline import Node, Pipeline

from rao_kedro.config.run_names import method_of, round_namespace
from rao_kedro.objectives import Requirements
from rao_kedro.pipelines.alignment.nodes import align, score_reference
from rao_kedro.pipelines.alignment.round_nodes import (
    align_with_ppo,
    annotate_samples,
    collect_rounds,
    sample_responses,
)
from rao_kedro.pipelines.runs import Rounds, bind
from rao_kedro.reporting.figures import training_dynamics_of_one

# The parameters that every training reads, by the arguments of `align`.
OF_TRAINING = {"kl": "params:kl_to_reference", "t0_length": "params:data.t0_length", "workers": "params:workers"}


def reference_node(model: str, groups: str, table: str) -> Node:
    """Return the node that computes the log-probs of groups under a reference model."""
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


def in_rounds(name: str, requirements: Requirements, rounds: Rounds) -> Pipeline:
    """Return the pipeline of a run that trains in rounds, from the SFT model to `{run}.policy`."""
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
            bind(sample_responses, run=space, round_=k),
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
        nodes.append(reference_node("reference_model", "reward_annotated@path", "reference_logprobs@path"))
    read = {stem for node in nodes for stem in node.inputs}
    parameters = {of: of for of in (*of_rewards.values(), *OF_TRAINING.values(), "params:reference") if of in read}
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
            **OF_TRAINING,
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

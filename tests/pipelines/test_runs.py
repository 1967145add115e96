"""Functions of nodes that know their run, and what the rounds of a run read."""

from kedro.pipeline import Node
from kedro_viz.models.flowchart.node_metadata import TaskNodeMetadata
from kedro_viz.models.flowchart.nodes import GraphNode

from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.run_names import method_of, owner_of
from rao_kedro.pipelines import alignment
from rao_kedro.pipelines.runs import Rounds, Runs, bind


def name_of(policy, *, run):
    return f"{run} {policy}"


def names_of(policy, *, run):
    yield f"{run} {policy}"


def test_a_function_keeps_its_name_and_the_code_that_kedro_viz_shows_when_its_run_is_set():
    node = Node(bind(name_of, run="rao"), inputs="policy", outputs="name", name="name")
    assert node.run({"policy": "p"}) == {"name": "rao p"}
    assert node.func.__name__ == "name_of"
    shown = TaskNodeMetadata(task_node=GraphNode.create_task_node(node, "id", None))
    assert shown.code.startswith("def name_of(policy, *, run):")


def test_a_generator_is_still_one_when_its_run_is_set():
    node = Node(bind(names_of, run="rao"), inputs="policy", outputs="name", name="name")
    assert [*node.func("p")] == ["rao p"]
    assert [*node.run({"policy": "p"})["name"]] == ["rao p"]


def inputs_of_round_2(objective="rao", **rounds):
    """What the nodes of a second round read, by node and argument."""
    pipeline = alignment.create_pipeline({"run": objective}, rounds={"run": Rounds(2, **rounds)})
    nodes = {node.name: node._inputs for node in pipeline.nodes if node.namespace == "run.round_2"}
    return {name.removeprefix("run.round_2."): inputs for name, inputs in nodes.items()}


def test_a_second_round_samples_from_the_first_ones_policy_and_trains_on_from_it():
    nodes = inputs_of_round_2()
    assert nodes["generate"]["policy"] == nodes["train"]["start"] == "run.round_1.policy"
    assert nodes["train"]["sft_model"] == nodes["score_reference"]["sft_model"] == "sft_model"
    assert nodes["train"]["first_round"] == "run.round_1.reward_annotated@path"


def test_without_a_warm_start_a_round_trains_from_the_sft_model():
    nodes = inputs_of_round_2(warm_start=False)
    assert nodes["generate"]["policy"] == "run.round_1.policy" and "start" not in nodes["train"]
    assert nodes["train"]["sft_model"] == "sft_model" and "first_round" in nodes["train"]


def test_a_reference_that_moves_is_the_policy_that_the_round_samples_from():
    """It starts there, too, and solves log_z0 from its own rewards."""
    nodes = inputs_of_round_2(moves_reference=True)
    assert nodes["train"]["sft_model"] == nodes["score_reference"]["sft_model"] == "run.round_1.policy"
    assert not {"start", "first_round"} & nodes["train"].keys()
    assert nodes["annotate"]["sft_model"] == "sft_model"  # implicit rewards compare with it


def test_methods_read_in_a_round_what_they_need():
    assert "reference_logprobs" not in inputs_of_round_2("simpo")["train"]
    assert inputs_of_round_2("qrpo")["train"]["reference_rewards"] == "reference_rewards@path"
    ppo = inputs_of_round_2("ppo")["train"]
    assert (ppo["value_network"], ppo["previous_log"]) == ("run.round_1.value_network", "run.round_1.training_log")


def test_the_policies_of_rounds_are_measured_as_often_as_asked():
    runs = Runs({"rao": "rao", "rao_seed_1": "rao"}, rounds={"rao_seed_1": Rounds(3, evaluated=(1, 2))})
    assert runs.measured() == {
        "rao": "rao",
        "rao_seed_1": "rao_seed_1",
        "rao_round_1_seed_1": "rao_seed_1.round_1",
        "rao_round_2_seed_1": "rao_seed_1.round_2",
    }
    assert [method_of(run) for run in runs.measured()] == ["rao", "rao", "rao_round_1", "rao_round_2"]
    assert {owner_of(name) for name in [*runs.measured(), "rao_seed_1.round_2"]} == {"rao", "rao_seed_1"}
    assert [RoundsParameters(n=5, evaluate_every=k).evaluated() for k in (0, 1, 2)] == [[], [1, 2, 3, 4], [2, 4]]

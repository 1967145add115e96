"""Functions of nodes that know their run."""

from kedro.pipeline import Node
from kedro_viz.models.flowchart.node_metadata import TaskNodeMetadata
from kedro_viz.models.flowchart.nodes import GraphNode

from rao_kedro.pipelines.runs import bind


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

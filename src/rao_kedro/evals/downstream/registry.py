"""This project's downstream tasks: a task is an entry of `TASKS`, a function in `formats` and a file in `tasks`."""

from collections.abc import Callable
from typing import NamedTuple

from rao_kedro.evals.downstream import formats
from rao_kedro.evals.downstream.formats import Item, Row
from rao_kedro.evals.downstream.parameters import TaskSource


class Task(NamedTuple):
    """A downstream task without its prompt and its metric, which are in `tasks/rao_<name>.yaml`.

    Attributes:
        read: Reads a row; takes the row and the item's id.
        hub: The usual dataset on the hub, at a fixed commit.
        log_probs: Whether the task reads log-probs of the choices instead of a response.
    """

    read: Callable[[Row, str], Item]
    hub: TaskSource
    log_probs: bool = False


_ARC = TaskSource(hub_id="allenai/ai2_arc", revision="210d026faf9955653af8916fad021475a3f00453", split="test")
TASKS = {
    "gsm8k": Task(
        formats.gsm8k,
        TaskSource(
            hub_id="openai/gsm8k", subset="main", split="test", revision="740312add88f781978c0658806c59bc2815b9866"
        ),
    ),
    "arc_easy": Task(formats.arc, _ARC.model_copy(update={"subset": "ARC-Easy"})),
    "arc_challenge": Task(formats.arc, _ARC.model_copy(update={"subset": "ARC-Challenge"})),
    # MathQA and SocialIQA: copies without a loading script, which `datasets` no longer runs.
    "mathqa": Task(formats.mathqa, TaskSource(hub_id="regisss/math_qa", split="test")),
    "socialiqa": Task(
        formats.socialiqa,
        TaskSource(hub_id="lighteval/siqa", split="validation", revision="54c6a1f8cb6daf4f5abf24a601852612fb35eb25"),
    ),
    "mmlu": Task(
        formats.mmlu,
        TaskSource(hub_id="cais/mmlu", split="test", revision="c30699e8356da336a370243923dbaf21066bb9fe"),
        log_probs=True,
    ),
}

"""conf/base shows a user everything that can be set."""

import itertools
import re
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from rao_kedro.config.globals import GlobalParameters
from rao_kedro.pipelines.parameters import ProjectParameters

ROOT = Path(__file__).parents[2]


def blocks_of(annotation):
    """The blocks of parameters that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from blocks_of(part)


def every_field(block, place, seen):
    """The dotted name of every parameter of a block."""
    for name, field in block.model_fields.items():
        yield f"{place}{name}"
        for inner in set(blocks_of(field.annotation)) - seen:
            seen.add(inner)
            yield from every_field(inner, f"{place}{name}.", seen)


def test_every_parameter_stands_in_conf_base_with_a_comment():
    """On its line or on the one before; a line that is commented out has a comment of its own."""
    files = [path.read_text().splitlines() for path in (ROOT / "conf/base").rglob("*.yml")]
    lines = [pair for text in files for pair in itertools.pairwise(["", *text])]
    parameters = [*every_field(ProjectParameters, "", set()), *every_field(GlobalParameters, "globals.", set())]
    parameters = [name for name in parameters if not name.endswith("reward.defaults")]  # which pipelines set
    without = []
    for parameter in parameters:
        name = re.compile(rf"(^|[\s{{,#]){parameter.rpartition('.')[2]}:")
        found = [(before, line.lstrip()) for before, line in lines if name.search(line)]
        if not any("#" in line[1:] or before.lstrip().startswith("#") for before, line in found):
            without.append(parameter)
    assert len(parameters) > 150 and without == []

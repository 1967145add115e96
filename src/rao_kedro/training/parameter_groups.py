"""Parts of a module that are trained with a learning rate or a gradient clipping of their own. Knows names, no task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from accelerate.state import DistributedType
from torch import nn

from rao_kedro.config.training import TrainingParameters
from rao_kedro.distributed import sharding
from rao_kedro.errors import TrainingError


@dataclass(frozen=True)
class ParameterGroup:
    """The parameters of a submodule, and how their training differs.

    Attributes:
        name: Of the submodule.
        learning_rate: Peak of the schedule; None for that of all others.
        max_grad_norm: Their gradient is clipped to this norm, apart from the others; None: together with them.
    """

    name: str
    learning_rate: float | None = None
    max_grad_norm: float | None = None

    def select(self, trained: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """Return the parameters of the submodule."""
        return {name: parameter for name, parameter in trained.items() if name.startswith(f"{self.name}.")}


class Clipped(NamedTuple):
    """Parameters whose gradient is clipped as one vector.

    Attributes:
        metric: Name of its norm in the training log.
        parameters: The parameters.
        max_norm: What the norm is clipped to.
    """

    metric: str
    parameters: list[nn.Parameter]
    max_norm: float


def group_for_optimizer(
    trained: Mapping[str, nn.Parameter], groups: Sequence[ParameterGroup]
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """Return what an optimizer takes: the parameters, or groups of them where some have a learning rate of their own.

    Args:
        trained: All that is trained, by its name in the module.
        groups: Groups that share no parameters.
    """
    own = [(group.learning_rate, group.select(trained)) for group in groups if group.learning_rate is not None]
    if not own:
        return list(trained.values())
    taken = {name for _, parameters in own for name in parameters}
    rest = [parameter for name, parameter in trained.items() if name not in taken]
    of_own: list[dict[str, Any]] = [{"params": [*parameters.values()], "lr": rate} for rate, parameters in own]
    return [{"params": rest}, *of_own]


def refuse_clipping_apart(groups: Sequence[ParameterGroup]) -> None:
    """Refuse groups that are clipped apart where DeepSpeed clips.

    Raises:
        TrainingError: There is one.
    """
    names = [group.name for group in groups if group.max_grad_norm is not None]
    if names and sharding() == DistributedType.DEEPSPEED:
        raise TrainingError(
            f"{names[0]}_max_grad_norm is set, and DeepSpeed clips the gradients of all networks together: leave it "
            "out, or choose an accelerate file with FSDP2 or data parallelism"
        )


def group_for_clipping(
    trained: Mapping[str, nn.Parameter], groups: Sequence[ParameterGroup], parameters: TrainingParameters
) -> list[Clipped]:
    """Return what is clipped together: all parameters, but for groups with a norm of their own."""
    own = [(group.name, group.max_grad_norm, group.select(trained)) for group in groups]
    of_own = [
        Clipped(f"{name}_grad_norm", list(of.values()), max_norm) for name, max_norm, of in own if max_norm is not None
    ]
    taken = {name for _, max_norm, of in own if max_norm is not None for name in of}
    rest = [parameter for name, parameter in trained.items() if name not in taken]
    return [Clipped("grad_norm", rest, parameters.max_grad_norm), *of_own]

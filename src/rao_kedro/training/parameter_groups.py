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


def group_for_clipping(
    trained: Mapping[str, nn.Parameter], groups: Sequence[ParameterGroup], parameters: TrainingParameters
) -> list[Clipped]:
    """Return what is clipped together: all parameters, but for groups with a norm of their own.

    Raises:
        TrainingError: A group has one, and DeepSpeed clips, which takes all gradients together.
    """
    own = [group for group in groups if group.max_grad_norm is not None]
    if own and sharding() == DistributedType.DEEPSPEED:
        raise TrainingError(
            f"{own[0].name}_max_grad_norm is set, and DeepSpeed clips the gradients of all networks together: leave it "
            "out, or choose an accelerate file with FSDP2 or data parallelism"
        )
    taken = {name for group in own for name in group.select(trained)}
    rest = [parameter for name, parameter in trained.items() if name not in taken]
    of_own = [
        Clipped(f"{group.name}_grad_norm", list(group.select(trained).values()), group.max_grad_norm)
        for group in own
        if group.max_grad_norm is not None
    ]
    return [Clipped("grad_norm", rest, parameters.max_grad_norm), *of_own]

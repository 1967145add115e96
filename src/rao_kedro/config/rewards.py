"""Parameters of rewards, which score responses."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from rao_kedro.config.base import Parameters
from rao_kedro.config.servers import JudgeServerParameters
from rao_kedro.errors import ParameterError

MAX_MODEL_LEN = 4096  # tokens; default for a judge that scores one response


class RewardParameters(Parameters):
    """A reward of `rao_kedro.rewards`.

    Attributes:
        name: A name of `rao_kedro.rewards.reward_names()`.
        parameters: The reward's own parameters.
        defaults: Values of the pipeline for what `parameters` leaves out: the catalog's models, the precision, and the
            directory for a judge's replies. Not set by users.
    """

    name: str = "bradley_terry"
    parameters: dict[str, Any] = {}
    defaults: dict[str, Any] = {}

    @model_validator(mode="after")
    def _judges_can_be_asked(self) -> Self:
        for parameters in _of_judges(self.name, self.parameters):
            names = JudgeServerParameters.model_fields.keys()
            generative_judge({name: value for name, value in parameters.items() if name in names} | {"model": "any"})
        return self

    def with_defaults(self, reward_model: Path, sft_model: Path, mixed_precision: str, workspace: Path) -> Self:
        """Return the reward with the pipeline's values for what its parameters leave out."""
        defaults = {
            "model_dir": str(reward_model),
            "reference_dir": str(sft_model),
            "mixed_precision": mixed_precision,
            "cache_dir": str(workspace / "answers"),
        }
        return self.model_copy(update={"defaults": defaults})


def generative_judge(parameters: Mapping[str, Any]) -> JudgeServerParameters:
    """Return the judge of a generative reward.

    Args:
        parameters: Fields of `JudgeServerParameters`.

    Raises:
        ParameterError: A field is unknown or its value is not allowed. The message does not quote the value, which may
            hold a key.
    """
    try:
        return JudgeServerParameters.model_validate({"max_model_len": MAX_MODEL_LEN, **parameters})
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, e['loc'])) or 'judge'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ParameterError(f"reward 'generative': {'; '.join(wrong)}") from None


def _of_judges(name: str, parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of every generative reward, also of those within a combined reward."""
    if name == "generative":
        yield parameters
    elif name == "combined":
        for part in parameters.get("parts", []):
            yield from _of_judges(part.get("name", ""), part.get("parameters", {}))

"""What scores responses, by its name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rao_kedro.config.servers import JudgeServerParameters
from rao_kedro.errors import ParameterError

MAX_MODEL_LEN = 4096  # of a judge that scores one response, where nothing else is said


class RewardParameters(BaseModel):
    """A reward of `rao_kedro.rewards`.

    Attributes:
        name: One of `rao_kedro.rewards.reward_names()`.
        parameters: Its own parameters.
        defaults: What the pipeline sets where the reward takes it and `parameters` does not: the catalog's models, the
            precision, where a judge's answers are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

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
        """Return the reward with the defaults of a pipeline."""
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
        ParameterError: One is unknown or out of range; the message does not quote it, since it may hold a key.
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
    """Yield the parameters of generative rewards, parts of combined ones included."""
    if name == "generative":
        yield parameters
    elif name == "combined":
        for part in parameters.get("parts", []):
            yield from _of_judges(part.get("name", ""), part.get("parameters", {}))

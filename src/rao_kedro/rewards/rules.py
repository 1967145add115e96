"""Rule-based rewards: requirements of each prompt, requirements for all prompts, or a user-defined function."""

import importlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rao_kedro.data import requirements as checks
from rao_kedro.data.prompt_group import Message, PromptGroup
from rao_kedro.data.requirements import score_response
from rao_kedro.errors import DataError, ParameterError
from rao_kedro.identity import combined_hash, file_hash
from rao_kedro.models import thinking
from rao_kedro.models.thinking import split_thinking
from rao_kedro.rewards.base import Reward, Scores

NO_REQUIREMENTS = "the prompt has no requirements"
THINKING_WAS_CUT = "the thinking was cut, so the response has no answer"


class Rules(Reward):
    """The mean of checks, in [0, 1], or the value of a function."""

    def __init__(self, *, requirements: Sequence[Mapping[str, Any]] | None = None, function: str | None = None) -> None:
        """Set the checks or the function.

        Args:
            requirements: Checks of `rao_kedro.data.requirements` for every prompt, instead of the prompt's own; for
                example `[{check: max_words, limit: 100}]`.
            function: Import path `module:name` of a function `(messages, response) -> number`, instead of checks. The
                response comes without its thinking. A response whose thinking was cut gets no reward.

        Raises:
            ParameterError: Both are set, a check or its arguments are unknown, or the function cannot be imported.
        """
        if requirements is not None and function is not None:
            raise ParameterError("reward 'rules': set requirements or function, not both")
        self.requirements, self.path = requirements, function
        if requirements is not None:
            score_response("", requirements)
        self.function = None if function is None else _import_function(function)

    @property
    def identity(self) -> str:
        """Return a hash of the scoring code and its parameters."""
        module = inspect.getmodule(self.function) if self.function else checks
        code = [file_hash(Path(str(inspect.getsourcefile(of)))) for of in (module or checks, thinking)]
        return f"rules {combined_hash(*code, str(self.path), json.dumps(self.requirements, sort_keys=True))}"

    def annotate(self, groups: Sequence[PromptGroup]) -> list[Scores]:
        """Return the scores of each group; a prompt without requirements fails."""
        return [self._of_group(group) for group in groups]

    def _of_group(self, group: PromptGroup) -> Scores:
        if self.function is not None:
            scored = [self._call(self.function, group, i) for i in range(len(group.responses))]
            failures = [THINKING_WAS_CUT if score is None else "" for score in scored]
            return Scores([math.nan if score is None else score for score in scored], [False] * len(scored), failures)
        requirements = json.loads(group.requirements) if self.requirements is None else self.requirements
        if not requirements:
            return Scores.failed(len(group.responses), NO_REQUIREMENTS)
        return Scores.complete([score_response(response, requirements) for response in group.responses])

    def _call(self, function: Callable[..., float], group: PromptGroup, response: int) -> float | None:
        """Return the score of a response; None if its thinking was cut."""
        if (answer := split_thinking(group.responses[response]).answer) is None:
            return None
        value = function(group.before(response), answer)
        if isinstance(value, bool | int | float) and value == value:
            return float(value)
        raise DataError(f"{self.path} returned {value!r} for a response of group {group.group_id}; it must be a number")


def _import_function(path: str) -> Callable[[Sequence[Message], str], float]:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ParameterError(
            f"reward 'rules': function {path!r} cannot be imported ({error}): write it as package.module:name, and "
            "make sure that the package is on Python's path"
        ) from error
    if not callable(function):
        raise ParameterError(f"reward 'rules': {path!r} is not a function")
    return function

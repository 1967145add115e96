"""Methods, and the runs that pipelines are built for. Knows neither command lines nor parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import isgeneratorfunction, signature
from typing import Any

from rao_kedro.config.run_names import method_of, round_namespace, round_run
from rao_kedro.objectives import objective_names

METHODS = tuple(objective_names())
DEFAULT_METHODS = ("rao", "dpo")  # what the default pipeline shows before parameters are loaded
LIKELIHOOD_STUDY, REWARD_MODEL_STUDY = "likelihood_study", "reward_model_study"


@dataclass(frozen=True)
class Rounds:
    """The on-policy rounds of a run.

    Attributes:
        n: Number of rounds.
        warm_start: Whether a round trains on from the policy of the last one.
        moves_reference: Whether the reference of a round is the policy that it samples from.
        evaluated: The rounds before the last whose policies are measured.
    """

    n: int
    warm_start: bool = True
    moves_reference: bool = False
    evaluated: tuple[int, ...] = ()


@dataclass(frozen=True)
class Runs:
    """The runs that pipelines are built for; each is a namespace of its own.

    Attributes:
        alignment: Objective of each run of a method; the run's name is its namespace (`rao`, `rao_seed_1`).
        rounds: The rounds of each of these runs that trains in on-policy rounds.
        likelihood_study: Objective of each run of the likelihood study.
        estimating: Namespaces of the runs of both kinds that estimate RAO's log_z0 from rewards of the reference's
            responses.
        reward_model_study: Form, size and seed of each run of the reward model study.
        benchmarks: Whether policies answer benchmarks, and are judged and compared on them.
        base_model: Whether the evaluation measures the base model beside them.
        conversations: Whether supervised fine-tuning learns conversations.
        finetunes: Whether the base model is fine-tuned; otherwise it takes the place of the SFT model.
        named: Namespaces of the runs that a command named, so that what they lack is made first.
    """

    alignment: Mapping[str, str]
    rounds: Mapping[str, Rounds] = field(default_factory=dict)
    likelihood_study: Mapping[str, str] = field(default_factory=dict)
    estimating: tuple[str, ...] = ()
    reward_model_study: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    benchmarks: bool = False
    base_model: bool = False
    conversations: bool = False
    finetunes: bool = True
    named: tuple[str, ...] = ()

    def measured(self) -> dict[str, str]:
        """Return the namespace that makes each policy that the evaluation measures, by the policy's name."""
        return {run: run for run in self.alignment} | {
            round_run(run, k): round_namespace(run, k)
            for run in self.alignment
            if run in self.rounds
            for k in self.rounds[run].evaluated
        }

    def last_rounds(self) -> dict[str, int]:
        """Return the number of rounds of each method that trains in rounds."""
        return {method_of(run): self.rounds[run].n for run in self.alignment if run in self.rounds}

    def namespaces(self) -> list[str]:
        """Return the namespaces of all runs."""
        studies = {LIKELIHOOD_STUDY: self.likelihood_study, REWARD_MODEL_STUDY: self.reward_model_study}
        return [*self.alignment, *(study_namespace(study, run) for study, runs in studies.items() for run in runs)]


def study_namespace(study: str, name: str) -> str:
    """Return the name of a study's run or dataset within the study; a dot would begin another namespace."""
    return f"{study}.{name.replace('.', '_')}"


def bind(function: Callable[..., Any], **values: Any) -> Callable[..., Any]:
    """Return a node's function with some of its arguments set: what a run is, and no parameter says.

    A function and not a `functools.partial`, of which kedro-viz shows no code.
    """
    bound = partial(function, **values)
    if isgeneratorfunction(function):  # Kedro asks the node's function whether it is one

        @wraps(function)
        def node(*inputs: Any, **named: Any) -> Any:
            yield from bound(*inputs, **named)

    else:

        @wraps(function)
        def node(*inputs: Any, **named: Any) -> Any:
            return bound(*inputs, **named)

    node.__signature__ = signature(bound)  # type: ignore[attr-defined]
    return node

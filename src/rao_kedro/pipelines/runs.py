"""The runs that pipelines are built for. Knows neither command lines nor parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field

LIKELIHOOD_STUDY, REWARD_MODEL_STUDY = "likelihood_study", "reward_model_study"


@dataclass(frozen=True)
class Runs:
    """The runs that pipelines are built for; each is a namespace of its own.

    Attributes:
        alignment: Objective of each run of a method; the run's name is its namespace (`rao`, `rao_seed_1`).
        likelihood_study: Objective of each run of the likelihood study.
        reward_model_study: Form, size and seed of each run of the reward model study.
        benchmarks: Whether policies answer benchmarks, and are judged and compared on them.
        named: Namespaces of the runs that a command named, so that what they lack is made first.
    """

    alignment: Mapping[str, str]
    likelihood_study: Mapping[str, str] = field(default_factory=dict)
    reward_model_study: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    benchmarks: bool = False
    named: tuple[str, ...] = ()

    def namespaces(self) -> list[str]:
        """Return the namespaces of all runs."""
        studies = {LIKELIHOOD_STUDY: self.likelihood_study, REWARD_MODEL_STUDY: self.reward_model_study}
        return [*self.alignment, *(study_namespace(study, run) for study, runs in studies.items() for run in runs)]


def study_namespace(study: str, run: str) -> str:
    """Return the namespace of a study's run: a dot in its name would begin another namespace."""
    return f"{study}.{run.replace('.', '_')}"

"""Parameters of the studies, which compare many trainings."""

import itertools
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.config.base import DIFFERENT_NAMES, SPLIT, FileName, Names, Parameters
from rao_kedro.config.training import TrainingParameters

Form = Literal["base", "sft", "dpo_implicit"]


def _refuse_rounds(method: MethodParameters) -> MethodParameters:
    if method.in_rounds or method.requirements.on_policy:
        what = "rounds" if method.in_rounds else f"objective {method.objective}"
        raise ValueError(f"{what}: a study trains on given responses alone, without on-policy rounds: leave it out")
    return method


StudiedMethod = Annotated[MethodParameters, AfterValidator(_refuse_rounds)]


class LikelihoodStudyParameters(Parameters):
    """The likelihood_study pipeline.

    Attributes:
        runs: The method of each run, by the name of the run. All runs are trained on the same annotated groups.
        only: Names of the runs to train; null, all.
        panels: Runs that each panel of the figure compares, by the title of the panel.
    """

    runs: Annotated[dict[FileName, StudiedMethod], DIFFERENT_NAMES]
    only: Names | None = None
    panels: dict[str, list[str]]

    @model_validator(mode="after")
    def _names_are_those_of_runs(self) -> "LikelihoodStudyParameters":
        named = {"panels": {run for runs in self.panels.values() for run in runs}, "only": {*(self.only or ())}}
        for key, names in named.items():
            if unknown := names - set(self.runs):
                raise ValueError(f"likelihood_study.{key} names unknown runs: {', '.join(sorted(unknown))}")
        return self


class RewardModelStudyParameters(Parameters):
    """The reward_model_study pipeline.

    Attributes:
        forms: Kinds of reward models: `base` and `sft` are trained from the base model and from the SFT model;
            `dpo_implicit` is the implicit reward of a DPO policy.
        sizes: Number of training groups, by a name; null takes all.
        seeds: Number of seeds, from 0 on. A seed decides the data order, new heads, and which groups a size takes.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        training: Settings of the training loop for `base` and `sft`.
        dpo: The method for `dpo_implicit`.
    """

    forms: Annotated[tuple[Form, ...], SPLIT]
    sizes: Annotated[dict[FileName, Annotated[int, Field(ge=1)] | None], DIFFERENT_NAMES]
    seeds: int = Field(3, ge=1)
    centering: float = Field(0.01, ge=0)
    training: TrainingParameters
    dpo: StudiedMethod

    def runs(self) -> dict[str, tuple[str, str, int]]:
        """Return form, size and seed of every run by its name: `sft_small_seed_0`."""
        every = itertools.product(self.forms, self.sizes, range(self.seeds))
        return {f"{form}_{size}_seed_{seed}": (form, size, seed) for form, size, seed in every}

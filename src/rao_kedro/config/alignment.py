"""Parameters of the alignment pipeline: the methods, and the forward pass of their reference."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rao_kedro.config.base import SPLIT, Parameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.rounds import RoundsParameters
from rao_kedro.config.run_names import run_names
from rao_kedro.config.training import Precision, RolloutParameters, TrainingParameters
from rao_kedro.objectives import Requirements, get_requirements, make_objective


class ValueNetworkParameters(Parameters):
    """How the value network of `ppo` is trained in rounds, where that differs from `training`.

    Attributes:
        learning_rate: Peak of its schedule; null takes that of the policy.
        max_grad_norm: Its gradient is clipped to this norm, apart from the policy's; null clips both together.
    """

    learning_rate: float | None = Field(None, gt=0)
    max_grad_norm: float | None = Field(None, gt=0)


class MethodParameters(Parameters):
    """One method of the alignment pipeline.

    Attributes:
        objective: A name of `rao_kedro.objectives.objective_names()`.
        parameters: The objective's own parameters. RAO's `log_z0` is in nats, or `auto`, which solves it for a
            `margin`, or `estimated` from rewards of the reference's responses.
        training: Settings of the training loop.
        responses_per_prompt: Number of responses of a group that the method sees: the chosen one, the rejected one,
            then the others in their order. Null takes all.
        pairs: For pairwise methods. `one` takes the pair of the chosen and the rejected response. `all` takes all pairs
            of differently rated responses; the loss of a group is the mean over its pairs.
        rollout: What `ppo` samples while it trains, unless it trains in rounds; must be null for every other method.
        rounds: On-policy rounds; null or with `n: 0`, the method trains once.
        value_network: How the value network of `ppo` is trained in rounds.
    """

    objective: str
    parameters: dict[str, float | str | bool] = {}
    training: TrainingParameters
    responses_per_prompt: int | None = Field(None, ge=2)
    pairs: Literal["one", "all"] = "one"
    rollout: RolloutParameters | None = None
    rounds: RoundsParameters | None = None
    value_network: ValueNetworkParameters = ValueNetworkParameters()

    @property
    def in_rounds(self) -> bool:
        """Whether the method trains in on-policy rounds."""
        return self.rounds is not None and self.rounds.n > 0

    @property
    def samples_in_training(self) -> bool:
        """Whether training itself samples from the policy."""
        return self.requirements.reads == "rollouts" and not self.in_rounds

    @property
    def requirements(self) -> Requirements:
        """What the objective needs from a run."""
        return get_requirements(self.objective, self.parameters)

    @model_validator(mode="after")
    def _objective_accepts_its_parameters(self) -> "MethodParameters":
        make_objective(self.objective, **self.parameters)
        reads = self.requirements.reads
        if self.pairs == "all" and reads != "pairs":
            raise ValueError(
                f"objective {self.objective}: pairs: all is for the pairwise methods, and this one reads no pairs: "
                "leave it out"
            )
        if self.responses_per_prompt is not None and reads == "rollouts":
            raise ValueError(
                f"objective {self.objective}: it samples its own responses: leave responses_per_prompt out"
            )
        if self.samples_in_training and self.rollout is None:
            raise ValueError(f"objective {self.objective} samples its own responses: set rollout, or rounds.n")
        if self.samples_in_training and self.parameters.get("kl_control") == "adaptive":
            raise ValueError(
                f"objective {self.objective} adapts beta from round to round, and it samples in training, in no "
                "rounds: set rounds.n, or kl_control: fixed"
            )
        if self.value_network != ValueNetworkParameters() and not (reads == "rollouts" and self.in_rounds):
            raise ValueError(
                f"objective {self.objective}: value_network is for ppo in rounds: leave it out, or set rounds.n"
            )
        if reads != "rollouts" and self.rollout is not None:
            raise ValueError(f"objective {self.objective} samples no responses: leave rollout out")
        return self

    def why_no_training(self) -> str | None:
        """Return why the method cannot train on what it would be given, as the end of a sentence about it, or None.

        The rounds of all methods have the same parameters unless a method has its own: only a method that is trained is
        asked.
        """
        requirements, rounds = get_requirements(self.objective, self.parameters), self.rounds
        if rounds is None or not self.in_rounds:
            own = "learns from what its own policy has just sampled, and not from given responses: set rounds.n"
            return own if requirements.on_policy else None
        if requirements.reference_rewards and rounds.reference == "previous":
            reads = "reads rewards of the SFT model's responses, so that no other reference will do"
            return f"{reads}: set rounds.reference: fixed"
        if not requirements.on_policy and requirements.reads != "rollouts":
            return None
        if requirements.reads == "rollouts":  # the temperature divides the logits in training, too
            rounds = rounds.model_copy(update={"sampling": rounds.sampling.model_copy(update={"temperature": 1.0})})
        others = {"offline_share": rounds.offline_share > 0, "warm_start: false": not rounds.warm_start}
        wrong = rounds.why_not_the_policy() or ", ".join(name for name, is_set in others.items() if is_set)
        own = "learns from what its own policy has just sampled, and"
        return f"{own} rounds.{wrong} gives it something else: leave it out" if wrong else None


def _check_seeds(seeds: list[int]) -> list[int]:
    if not seeds:
        raise ValueError("no seed is named: null trains once, with training.seed")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{', '.join(map(str, twice))} occurs twice: two runs would be the same")
    return seeds


# A YAML list, or one string with blanks between the numbers.
Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], SPLIT, AfterValidator(_check_seeds)]


class SeededMethodParameters(MethodParameters):
    """One method of the alignment pipeline, and the seeds that it is trained with.

    Attributes:
        seeds: The method is trained and evaluated once with each seed, which replaces `training.seed`. The run of the
            first seed has the method's own name; the others are called `rao_seed_1` and so on. Null trains once.
    """

    seeds: Seeds | None = None

    def runs(self, name: str) -> dict[str, MethodParameters]:
        """Return the method's runs by their names, each with its seed as `training.seed`."""
        block = self.model_dump(exclude={"seeds", "rounds"}) | {"rounds": self.rounds if self.in_rounds else None}
        block |= {"rollout": None} if self.in_rounds else {}
        seeds = self.seeds or [self.training.seed]
        return {
            run: MethodParameters(**(block | {"training": self.training.model_copy(update={"seed": seed})}))
            for run, seed in zip(run_names(name, seeds), seeds, strict=True)
        }


class ReferenceParameters(Parameters):
    """The forward pass of the reference model.

    Attributes:
        mixed_precision: Precision of the forward pass. It must be that of the methods' training; otherwise log-ratios
            at step 0 are not 0.
        max_tokens_per_batch: Tokens of one packed forward pass.
    """

    mixed_precision: Precision = "bf16"
    max_tokens_per_batch: int = Field(2048, ge=1)


class ReferenceRewardParameters(Parameters):
    """The responses of the reference whose rewards `qrpo` and `log_z0: estimated` read.

    Attributes:
        generation: How they are sampled, from the reference's own distribution; `sampling.n` of them per prompt.
    """

    generation: GenerationParameters

    @model_validator(mode="after")
    def _samples_are_those_of_the_reference(self) -> "ReferenceRewardParameters":
        if changes := self.generation.why_not_the_policy():
            raise ValueError(
                f"generation: {changes} would sample from another distribution than the reference's own: leave it out"
            )
        if self.generation.chat_template_kwargs:
            raise ValueError(
                "generation.chat_template_kwargs: training writes prompts without them: set the variables in a chat "
                "template of your own (model.chat_template)"
            )
        return self

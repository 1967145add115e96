"""Parameters of the pipelines; Kedro validates them before any node runs."""

import itertools
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rao_kedro.config.benchmarks import BenchmarkParameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.names import DIFFERENT_NAMES, FileName
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.runs import run_names
from rao_kedro.config.specs import ModelParameters
from rao_kedro.config.training import KLParameters, Precision, RolloutParameters, TrainingParameters
from rao_kedro.config.workers import WorkerParameters


class Parameters(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)


class SampledResponses(Parameters):
    """Responses sampled from the model itself on shipped prompts, rated by the prompts' own requirements.

    Attributes:
        train_prompts: Prompts of the training split to sample from.
        validation_prompts: Prompts of the held-out split to sample from for what training evaluates on.
        test_prompts: Prompts of the evaluation to sample from, for the groups that are only reported.
        generation: How to sample; `sampling.n` is K.
    """

    train_prompts: int = Field(ge=1)
    validation_prompts: int = Field(16, ge=1)
    test_prompts: int = Field(16, ge=1)
    generation: GenerationParameters

    @model_validator(mode="after")
    def _prompts_are_those_of_training(self) -> "SampledResponses":
        if self.generation.chat_template_kwargs:
            raise ValueError(
                "generation.chat_template_kwargs: training writes prompts without them, so that responses would be "
                "sampled behind other prompts than they are trained behind: set the variables in a chat template of "
                "your own (model.chat_template)"
            )
        return self


# What `PreferenceSource.columns` can name; see docs/data.md.
ColumnName = Literal[
    "prompt",
    "messages",
    "conversations",
    "instruction",
    "question",
    "query",
    "input",
    "context",
    "system",
    "history",
    "chosen",
    "rejected",
    "chosen_rating",
    "rejected_rating",
    "chosen_rank",
    "rejected_rank",
    "responses",
    "ratings",
    "ranks",
    "rank",
    "response",
    "rating",
    "completion",
    "label",
    "finished",
    "finish_reason",
    "truncated",
    "requirements",
    "metadata",
    "images",
    "image",
    "audio",
    "videos",
    "tools",
]
FormatName = Literal[
    "auto",
    "simpo",
    "distilabel",
    "nectar",
    "nemo_rl",
    "ultrafeedback",
    "rated",
    "helpsteer3",
    "safe_rlhf",
    "sharegpt",
    "alpaca",
    "trl",
    "hh_rlhf",
    "unpaired",
    "helpsteer2",
]


class PreferenceSource(Parameters):
    """Where rows of preference data come from: a local path, or the hub.

    Attributes:
        path: A file (JSON lines, JSON, parquet, Arrow or CSV, compressed or not), or a directory: of such files, saved
            by `save_to_disk`, or a snapshot of a repository of the hub; where it is set, it is read in place of
            `hub_id`.
        hub_id: A dataset of the hub, with its `subset`, `revision` and `split`.
        subset: A configuration of it.
        revision: A revision of it.
        split: A split of it, or of a directory whose files or folders name splits.
        format: What a row looks like (see docs/data.md); auto tells from each row's columns.
        columns: The row's own name (which may be dotted) of a column that formats know by another one; null for a
            column that is not to be read.
        rating_key: The field that holds a response's rating, where it is not the format's own; may be dotted. Ratings
            of fields called rank or ranking are best where they are lowest.
        skip_rows: Rows at the beginning that are not read, for a split of one file.
        max_rows: Rows to read; all if not set.
    """

    path: str | None = None
    hub_id: str | None = None
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    format: FormatName = "auto"
    columns: dict[ColumnName, str | None] = {}
    rating_key: str | None = None
    skip_rows: int = Field(0, ge=0)
    max_rows: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _has_a_place(self) -> "PreferenceSource":
        if self.path is None and self.hub_id is None:
            raise ValueError("set path or hub_id")
        return self


class PreferenceFiles(Parameters):
    """Preference data from local files or the hub.

    Attributes:
        train: Where training rows come from.
        test: Where held-out rows come from. Without `validation` they are divided: the first `data.evaluation_prompts`
            prompts, but at most half of them, are reported (`test`), and training evaluates on the others
            (`validation`).
        validation: Where rows come from that training evaluates on; all of `test` is reported then.
    """

    train: PreferenceSource
    test: PreferenceSource
    validation: PreferenceSource | None = None


class DataParameters(Parameters):
    """The data_engineering pipeline.

    Attributes:
        source: Where prompt groups come from: responses sampled from the model, or preference data.
        sampled: Settings of the first; unused with the other.
        preferences: Settings of the second; unused with the other.
        max_prompt_tokens: Longer prompts are quarantined, never cut: that would cut t_0.
        max_response_tokens: Longer responses are dropped; the group is kept where a preference is left.
        t0_length: Tokens of the prefix t_0 that all prompts share.
        pairing: Which response the pairwise methods take as the rejected one beside the best rated.
        evaluation_prompts: Held-out prompts that the evaluation generates on; training never sees them, and they choose
            no checkpoint. With preference data they are the prompts of the `test` groups, of which there may be fewer.
        seed: Seeds the random pairing.
    """

    source: Literal["sampled", "preferences"]
    sampled: SampledResponses | None = None
    preferences: PreferenceFiles | None = None
    max_prompt_tokens: int = Field(ge=1)
    max_response_tokens: int = Field(ge=1)
    t0_length: int = Field(1, ge=1)
    pairing: Literal["best_vs_random", "best_vs_worst"] = "best_vs_random"
    evaluation_prompts: int = Field(ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _source_is_set(self) -> "DataParameters":
        if getattr(self, self.source) is None:
            raise ValueError(f"data.source is {self.source}, but data.{self.source} is not set")
        sampled = self.sampled if self.source == "sampled" else None
        if sampled is not None and sampled.test_prompts > self.evaluation_prompts:
            raise ValueError(
                f"data.sampled.test_prompts ({sampled.test_prompts}) are the first of data.evaluation_prompts, of "
                f"which there are {self.evaluation_prompts}: lower the one or raise the other"
            )
        return self


class RewardModelingParameters(Parameters):
    """The reward_modeling pipeline.

    Attributes:
        reward: Where the rewards of the alignment come from. A Bradley-Terry reward model is trained in any case.
        clip: Rewards further than this many robust standard deviations from the median of the training split are set
            there (see `rao_kedro.rewards.outliers`), before they are standardised; the raw ones are kept beside them.
        normalisation: "standardise" gives the rewards mean 0 and standard deviation 1 over the training split; the raw
            ones are kept beside them.
        start: What the reward model is trained from: `sft_model` or `base_model` of the catalog, or another model's
            directory or hub name: a causal LM, or a sequence classifier with one label.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        margin: The better response is to lead by this much reward per unit of rating between the two.
        training: Parameters of the loop.
    """

    reward: RewardParameters = RewardParameters()
    clip: float | None = Field(None, gt=0)
    normalisation: Literal["none", "standardise"] = "none"
    start: str = "sft_model"
    centering: float = Field(0.01, ge=0)
    margin: float = Field(0.0, ge=0)
    training: TrainingParameters


class MethodParameters(Parameters):
    """One method of the alignment pipeline.

    Attributes:
        objective: A name of `rao_kedro.objectives.objective_names()`.
        parameters: The objective's own parameters; RAO's `log_z0` may be "auto", with `margin` in nats beside it.
        training: Parameters of the loop.
        responses_per_prompt: Responses of a group that the method may see, at least 2: the chosen one, the rejected
            one, and then the others in their order; all where it is null.
        pairs: Of a pairwise method: the `one` pair of the chosen and the rejected response, or `all` pairs of
            differently rated responses, whose mean is the loss of a group.
        rollout: What an on-policy method samples: set it for `ppo`, and for no other.
    """

    objective: str
    parameters: dict[str, float | str | bool] = {}
    training: TrainingParameters
    responses_per_prompt: int | None = Field(None, ge=2)
    pairs: Literal["one", "all"] = "one"
    rollout: RolloutParameters | None = None

    @model_validator(mode="after")
    def _objective_accepts_its_parameters(self) -> "MethodParameters":
        # The objectives themselves know their parameters, so nothing is written twice.
        from rao_kedro.objectives import make_objective

        objective = make_objective(self.objective, **self.parameters)
        if self.pairs == "all" and not getattr(objective, "pairwise", False):
            raise ValueError(
                f"objective {self.objective}: pairs: all is for the pairwise methods, and this one reads no pairs: "
                "leave it out"
            )
        if self.responses_per_prompt is not None and self.objective == "ppo":
            raise ValueError("objective ppo: it samples its own responses: leave responses_per_prompt out")
        if (self.rollout is not None) != (self.objective == "ppo"):
            raise ValueError(f"objective {self.objective}: rollout is for ppo, which needs it, and for no other")
        return self


def _numbers(seeds: object) -> object:
    """Read seeds with blanks between: `--params` cuts a list at its commas."""
    return seeds.split() if isinstance(seeds, str) else seeds


class SeededMethodParameters(MethodParameters):
    """One method of the alignment pipeline, and how often it is trained.

    Attributes:
        seeds: The method is trained once with each, in place of `training.seed`, and each policy is evaluated; the run
            of the first has the method's own name, the others are called `rao_seed_1` and so on. A list, or numbers
            with blanks between; null trains once.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]] | None, BeforeValidator(_numbers)] = None

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and not seeds:
            raise ValueError("no seed is named: null trains once, with training.seed")
        if seeds is not None and (twice := sorted({seed for seed in seeds if seeds.count(seed) > 1})):
            raise ValueError(f"{', '.join(map(str, twice))} is there twice: two runs would be the same")
        return seeds

    def runs(self, name: str) -> dict[str, MethodParameters]:
        """Return the method's runs by their names, each with its seed as `training.seed`."""
        block = self.model_dump(exclude={"seeds"})
        seeds = self.seeds or [self.training.seed]
        return {
            run: MethodParameters(**(block | {"training": self.training.model_copy(update={"seed": seed})}))
            for run, seed in zip(run_names(name, seeds), seeds, strict=True)
        }


class LikelihoodStudyParameters(Parameters):
    """The likelihood_study pipeline.

    Attributes:
        runs: Methods by the name of the run; all are trained on the same annotated groups.
        only: Names of the runs to train, with blanks between; all if not set.
        panels: Titles of the figure's panels, and the runs that each compares.
    """

    runs: Annotated[dict[FileName, MethodParameters], DIFFERENT_NAMES]
    only: str | None = None
    panels: dict[str, list[str]]

    @model_validator(mode="after")
    def _names_are_those_of_runs(self) -> "LikelihoodStudyParameters":
        named = {"panels": {run for runs in self.panels.values() for run in runs}, "only": {*(self.only or "").split()}}
        for key, names in named.items():
            if unknown := names - set(self.runs):
                raise ValueError(f"likelihood_study.{key} names runs that are not there: {', '.join(sorted(unknown))}")
        return self


class RewardModelStudyParameters(Parameters):
    """The reward_model_study pipeline.

    Attributes:
        forms: Forms of reward model, with blanks between: trained from the base model, trained from the SFT model,
            implicit in a DPO policy.
        sizes: Training groups by a name; null takes all.
        seeds: How many, from 0 on: of data order, new heads, and which groups a size takes.
        centering: Weight of the term that keeps the additive constant of the rewards near 0.
        training: Parameters of the loop for the trained ones.
        dpo: The method whose policy holds the implicit one.
    """

    forms: str
    sizes: Annotated[dict[FileName, Annotated[int, Field(ge=1)] | None], DIFFERENT_NAMES]
    seeds: int = Field(3, ge=1)
    centering: float = Field(0.01, ge=0)
    training: TrainingParameters
    dpo: MethodParameters

    @model_validator(mode="after")
    def _forms_are_known(self) -> "RewardModelStudyParameters":
        known = ("base", "sft", "dpo_implicit")
        if unknown := set(self.forms.split()) - set(known):
            raise ValueError(f"reward_model_study.forms: {', '.join(sorted(unknown))}: choose of {', '.join(known)}")
        return self

    def runs(self) -> list[tuple[str, str, int]]:
        """Return form, size and seed of every run."""
        return list(itertools.product(self.forms.split(), self.sizes, range(self.seeds)))


class RewardBenchmarksParameters(Parameters):
    """The reward_benchmarks pipeline.

    Attributes:
        names: Benchmarks with blanks between, of `rao_kedro.evals.reward_benchmarks.benchmark_names()`.
        sources: Where a benchmark's rows are; the authors' dataset of the hub if not set.
        reward: What is measured.
        mixed_precision: Of a model that computes here.
        seed: Seeds the resampling of the intervals.
    """

    names: str
    sources: dict[str, PreferenceSource] = {}
    reward: RewardParameters = RewardParameters()
    mixed_precision: Precision = "bf16"
    seed: int = 0


class ReferenceParameters(Parameters):
    """The forward pass of the reference model.

    Attributes:
        mixed_precision: Must be the precision of the methods' training, or log-ratios at step 0 are not 0.
        max_tokens_per_batch: Tokens of one packed forward pass.
    """

    mixed_precision: Precision = "bf16"
    max_tokens_per_batch: int = Field(2048, ge=1)


class EvaluationParameters(Parameters):
    """The evaluation pipeline.

    Attributes:
        generation: How responses to the held-out prompts are written. The KL divergence from the reference is
            measured on them, so that it is NaN where they are not sampled from the policy's own distribution (another
            temperature than 1, top_p, top_k, min_p, a repetition penalty, a quantised engine).
        reward: What scores them beside the rules of their prompts.
        mixed_precision: Of the forward passes that score them.
        max_tokens_per_batch: Tokens of one packed forward pass.
        seed: Seeds the resampling of the intervals.
        examples: Prompts that the reports show with every method's response.
        benchmarks: What else is measured.
    """

    generation: GenerationParameters
    benchmarks: BenchmarkParameters = BenchmarkParameters()
    reward: RewardParameters = RewardParameters()
    mixed_precision: Precision = "bf16"
    max_tokens_per_batch: int = Field(2048, ge=1)
    seed: int = 0
    examples: int = Field(12, ge=0)

    @model_validator(mode="after")
    def _policies_are_measured_as_they_are(self) -> "EvaluationParameters":
        if self.generation.engine.lora_path is not None:
            raise ValueError(
                "generation.engine.lora_path: every policy would answer with this adapter and be scored without it: "
                "leave it out; what is trained with LoRA is published merged"
            )
        return self


class ProjectParameters(Parameters):
    """All parameters: a block for each pipeline, and what several share. Nodes are given the parts that they read.

    A method with several seeds is one block here; nodes and `context.params` have a block for each of its runs.

    Attributes:
        workers: How nodes start workers.
        model: Where the base model comes from.
        data: Of data_engineering.
        supervised_finetuning: Of that pipeline.
        reward_modeling: Of that pipeline.
        methods: Names of methods with blanks between: what a run trains and compares.
        reference: The forward pass of the reference model.
        kl_to_reference: How evaluations in training measure it.
        alignment: Methods by their names.
        evaluation: Of that pipeline.
        likelihood_study: Of that pipeline.
        reward_model_study: Of that pipeline.
        reward_benchmarks: Of that pipeline.
    """

    workers: WorkerParameters
    model: ModelParameters
    data: DataParameters
    supervised_finetuning: TrainingParameters
    reward_modeling: RewardModelingParameters
    methods: str
    reference: ReferenceParameters
    kl_to_reference: KLParameters
    alignment: dict[str, SeededMethodParameters]
    evaluation: EvaluationParameters
    likelihood_study: LikelihoodStudyParameters
    reward_model_study: RewardModelStudyParameters
    reward_benchmarks: RewardBenchmarksParameters

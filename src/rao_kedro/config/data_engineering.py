"""Parameters of the data_engineering pipeline: where prompt groups come from, and what is kept of them."""

from typing import Literal

from pydantic import Field, model_validator

from rao_kedro.config.base import Parameters
from rao_kedro.config.generation import GenerationParameters


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


# What `PreferenceSource.columns` can name; see docs/how_to/data.md.


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
        format: What a row looks like (see docs/how_to/data.md); auto tells from each row's columns.
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

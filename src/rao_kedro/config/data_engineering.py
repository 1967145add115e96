"""Parameters of the data_engineering pipeline: the base model, where prompt groups come from, and what is kept."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rao_kedro.config.base import Parameters
from rao_kedro.config.generation import GenerationParameters


class TemplateOfModel(Parameters):
    """The chat template of another model.

    Attributes:
        model: A directory with a tokenizer, or a hub name.
        revision: A hub revision.
    """

    model: str
    revision: str | None = None


class ModelParameters(Parameters):
    """The base model.

    Attributes:
        source: `gguf_package` is a Python package that ships a GGUF file; `checkpoint` is a directory or a hub name;
            `tiny_random` is a tiny Llama with random weights, for tests.
        name: The package, the directory or the hub name.
        revision: A hub revision.
        chat_template: Takes the place of the model's own chat template: the name of a template that ships (`chatml`,
            `gemma`, `gemma3`, `llama3`, `mistral`, `qwen2_5`, `qwen3`), a Jinja file, or another model's.
    """

    source: Literal["gguf_package", "checkpoint", "tiny_random"]
    name: str
    revision: str | None = None
    chat_template: str | TemplateOfModel | None = None


class SampledResponses(Parameters):
    """Responses that a model writes to the shipped prompts, rated by the prompts' own requirements.

    Attributes:
        model: The model that writes them; null takes the base model. A base model that cannot follow prompts yet
            learns from another model's responses.
        train_prompts: Number of prompts of the training split.
        validation_prompts: Number of held-out prompts for the groups that training evaluates on.
        test_prompts: Number of evaluation prompts for the groups that are only reported.
        generation: How responses are sampled; `sampling.n` is K.
    """

    model: ModelParameters | None = None
    train_prompts: int = Field(ge=1)
    validation_prompts: int = Field(16, ge=1)
    test_prompts: int = Field(16, ge=1)
    generation: GenerationParameters

    @model_validator(mode="after")
    def _prompts_are_those_of_training(self) -> "SampledResponses":
        if self.generation.chat_template_kwargs:
            raise ValueError(
                "generation.chat_template_kwargs: training writes prompts without them, so that responses would be "
                "sampled after other prompts than in training: set the variables in a chat template of your own "
                "(model.chat_template)"
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
    "output",
    "text",
    "role",
    "message_id",
    "parent_id",
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


# Formats of conversations; see docs/how_to/data.md.
ConversationFormatName = Literal[
    "auto",
    "tree",
    "tree_messages",
    "messages",
    "sharegpt",
    "alpaca",
    "chosen",
    "prompt_completion",
]


class RowSource(Parameters):
    """Where rows of data come from.

    Attributes:
        path: A file (JSON lines, JSON, parquet, Arrow or CSV, compressed or not) or a directory. A directory holds such
            files, was saved by `save_to_disk`, or is a snapshot of a hub repository. A path takes precedence over
            `hub_id`.
        hub_id: A dataset on the hub.
        subset: A configuration of the dataset.
        revision: A revision of the dataset.
        split: A split of the dataset, or of a directory whose files or folders name splits.
        columns: Names of columns in the rows, which may be dotted, by the names that formats use; null skips a column.
        skip_rows: Number of rows at the beginning that are skipped.
        max_rows: Maximal number of rows; unset, all.
    """

    path: str | None = None
    hub_id: str | None = None
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    columns: dict[ColumnName, str | None] = {}
    skip_rows: int = Field(0, ge=0)
    max_rows: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.path is None and self.hub_id is None:
            raise ValueError("set path or hub_id")
        return self


class PreferenceSource(RowSource):
    """Where rows of preference data come from.

    Attributes:
        format: The schema of a row (docs/how_to/data.md); `auto` recognises it by the row's columns.
        rating_key: Field of a response's rating, which may be dotted, if not the format's own. For fields called rank
            or ranking, the lowest value is the best.
        assistant_turns: What is learned where the dialogues of a row part before their last turn: with `all`, a
            response is every turn after the last message of the user that all of them share, and the user's turns in
            it are read, but not learned; with `last`, such a row is quarantined.
    """

    format: FormatName = "auto"
    rating_key: str | None = None
    assistant_turns: Literal["last", "all"] = "last"


class PreferenceFiles(Parameters):
    """Preference data from local files or the hub.

    Attributes:
        train: Training rows.
        test: Held-out rows. Without `validation` they are divided: the first `data.evaluation_prompts` prompts, but at
            most half of them, are reported (`test`), and training evaluates on the others (`validation`).
        validation: Rows that training evaluates on; all of `test` is reported then.
    """

    train: PreferenceSource
    test: PreferenceSource
    validation: PreferenceSource | None = None


class ConversationSource(RowSource):
    """Where conversations come from.

    Attributes:
        format: The schema of a row (docs/how_to/data.md); `auto` recognises it by the row's columns.
    """

    format: ConversationFormatName = "auto"


class ConversationFiles(Parameters):
    """Conversations for supervised fine-tuning.

    Attributes:
        train: Training rows.
        validation: Rows of the held-out loss, which may choose the checkpoint.
        validation_share: Without `validation`, the share of the conversations that is held out, chosen by a hash of
            their first prompt.
    """

    train: ConversationSource
    validation: ConversationSource | None = None
    validation_share: float = Field(0.02, ge=0, lt=1)


class DataParameters(Parameters):
    """The data_engineering pipeline.

    Attributes:
        source: Whether prompt groups hold responses sampled from the base model, or preference data.
        sampled: Settings of the sampled responses; used only with that source.
        preferences: The preference data; used only with that source.
        conversations: Conversations of which supervised fine-tuning learns every turn of the assistant; null: it learns
            the chosen responses of the prompt groups. Not read if `supervised_finetuning.start` is none.
        max_conversation_tokens: Longer conversations are cut after the last assistant turn that fits.
        max_prompt_tokens: Longer prompts are quarantined. They are never cut, since that would cut t_0.
        max_response_tokens: Longer responses are dropped. The group is kept if a preference is left.
        t0_length: Tokens of the prefix t_0 that all prompts share.
        pairing: The rejected response of the pairwise methods; the chosen one is the best rated.
        evaluation_prompts: Number of held-out prompts that the evaluation generates on. They are in no training and
            choose no checkpoint. With preference data they are the prompts of the `test` groups, which may be fewer.
        seed: Seeds the random pairing.
        num_proc: Processes that tokenise; with 1, the tokenizer's own threads use the cores.
    """

    source: Literal["sampled", "preferences"]
    sampled: SampledResponses | None = None
    preferences: PreferenceFiles | None = None
    conversations: ConversationFiles | None = None
    max_conversation_tokens: int = Field(2048, ge=2)
    max_prompt_tokens: int = Field(ge=1)
    max_response_tokens: int = Field(ge=1)
    t0_length: int = Field(1, ge=1)
    pairing: Literal["best_vs_random", "best_vs_worst"] = "best_vs_random"
    evaluation_prompts: int = Field(ge=1)
    seed: int = 0
    num_proc: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _source_is_set(self) -> "DataParameters":
        if getattr(self, self.source) is None:
            raise ValueError(f"data.source is {self.source}, but data.{self.source} is not set")
        if self.source == "sampled" and self.preferences is not None:
            raise ValueError(
                "data.preferences is set, but data.source is sampled: set data.source to preferences, or "
                "data.preferences to null"
            )
        sampled = self.sampled if self.source == "sampled" else None
        if sampled is not None and sampled.test_prompts > self.evaluation_prompts:
            raise ValueError(
                f"data.sampled.test_prompts ({sampled.test_prompts}) are the first of data.evaluation_prompts, of "
                f"which there are {self.evaluation_prompts}: lower the one or raise the other"
            )
        return self

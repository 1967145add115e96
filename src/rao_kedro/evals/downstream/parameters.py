"""Parameters of the downstream tasks: this project's own, and tasks of lm-evaluation-harness by name."""

from typing import Any

from pydantic import Field, model_validator

from rao_kedro.config.base import Names, Parameters

HARNESS = "lm_eval/"  # prefix in tables of tasks that belong to lm-evaluation-harness
FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")  # builders of the library `datasets` that read plain files


class TaskSource(Parameters):
    """The source of a downstream task's rows; unset fields are those of the task's usual dataset on the hub.

    Attributes:
        path: A local file: JSON lines, JSON or parquet, gzipped or not, in the schema of the hub or of the authors. For
            SocialIQA's official release the labels are `<name>-labels.lst` beside it. For MMLU it is the authors'
            archive: a zip, or the directory that it unpacks to.
        hub_id: A dataset on the hub.
        subset: A configuration of the dataset. For MMLU the subject takes its place.
        split: A split of the dataset.
        revision: A revision of the dataset. The usual datasets are pinned, except MathQA's, which is the newest.
    """

    path: str | None = None
    hub_id: str | None = None
    subset: str | None = None
    split: str | None = None
    revision: str | None = None


class ChainOfThoughtParameters(Parameters):
    """This project's zero-shot chain-of-thought tasks.

    Attributes:
        max_tokens: Token limit of a response. A response that is cut before its answer counts as wrong.
    """

    max_tokens: int = Field(512, ge=1)


class HarnessDataset(Parameters):
    """The source of the rows of a task of lm-evaluation-harness, instead of the dataset that the task names.

    Attributes:
        dataset_path: A dataset on the hub, the directory of a copy of it, or a file format: `json`, `csv`, `parquet`.
        dataset_name: A configuration of the dataset; unset, the one that the task names. File formats have none.
        dataset_kwargs: Further arguments of `load_dataset`, such as `{data_files: {train: a.jsonl, test: b.jsonl}}`.
    """

    dataset_path: str
    dataset_name: str | None = None
    dataset_kwargs: dict[str, Any] = {}

    @property
    def overrides(self) -> dict[str, Any]:
        """The keys of a task's file that are replaced."""
        keeps_name = self.dataset_name is None and self.dataset_path not in FILE_FORMATS
        return self.model_dump(exclude={"dataset_name"} if keeps_name else None)


class HarnessParameters(Parameters):
    """Tasks of lm-evaluation-harness, run as its own command runs them.

    Attributes:
        tasks: Names of tasks, groups and tags of the harness; `lm_eval ls tasks` lists them.
        num_fewshot: Examples before each question; unset, the number that each task names. A task that names 0 has
            none in any case.
        apply_chat_template: Whether prompts are messages in the model's chat template, or plain text.
        fewshot_as_multiturn: Whether the examples are turns of the chat, or part of one message.
        datasets: Sources of rows, by the name of a task or a group; other tasks use their own datasets.
    """

    tasks: Names = ()
    num_fewshot: int | None = Field(None, ge=0)
    apply_chat_template: bool = True
    fewshot_as_multiturn: bool = True
    datasets: dict[str, HarnessDataset] = {}

    @model_validator(mode="after")
    def _datasets_are_of_tasks(self) -> "HarnessParameters":
        if unused := [name for name in self.datasets if name not in self.tasks]:
            tasks = " ".join(self.tasks) or "none"
            raise ValueError(f"harness.datasets: {', '.join(unused)} is not among harness.tasks ({tasks})")
        return self

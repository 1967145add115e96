"""Parameters of the pipeline `publish`."""

from typing import Self

from pydantic import Field, model_validator

from rao_kedro.config.base import Parameters


class PublishParameters(Parameters):
    """What is published of a policy, and where.

    Attributes:
        push: Whether the policy is pushed to the hub. Where it is not, its folder is complete on disk and nothing is
            sent.
        repository: The hub repository, `owner/name`; `{run}` in it stands for the run's name, and is needed where
            several runs are published.
        private: Whether a repository that is created is private.
        license: Licence of the published weights, as the hub names it (`apache-2.0`, `llama3`). It depends on the
            licences of the base model and of the data.
        language: Languages of the training data, as two letters each.
    """

    push: bool = False
    repository: str | None = Field(None, pattern=r"^[\w.-]+/[\w.{}-]+$")
    private: bool = True
    license: str | None = None
    language: list[str] = ["en"]

    @model_validator(mode="after")
    def _a_push_has_a_target(self) -> Self:
        if self.push and self.repository is None:
            raise ValueError("publish.push is true, but publish.repository names no repository: set it to owner/name")
        return self

    def repository_of(self, run: str) -> str | None:
        """Return the repository of one run."""
        return self.repository and self.repository.replace("{run}", run)

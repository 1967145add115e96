"""All that a model behind a server writes for the benchmarks: `python -m rao_kedro.evals.served_answers SPEC`.

Every answer is kept by its whole request: a killed run goes on there.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.evals.answers import load_named_tasks, write_answers
from rao_kedro.evals.responses import Response, no_response
from rao_kedro.evals.specs import ServedAnswersSpec
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling, Message
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rao_kedro.evals.downstream.harness_model import ServedLM


def main(spec_path: str) -> None:
    """Do what a spec file says.

    Args:
        spec_path: JSON of a `ServedAnswersSpec`.

    Raises:
        DataError: A benchmark's files have no usable form.
        ParameterError: A task of lm-evaluation-harness needs log-probs, is unknown, or cannot be run.
        GenerationError: The server stays away; what it answered is kept.
    """
    spec = ServedAnswersSpec.model_validate_json(Path(spec_path).read_text())
    server = ChatServer.of(spec.server, spec.server.base_url, cache_dir=spec.workspace / "answers")
    write_answers(spec, _Served(server), load_named_tasks(spec, generating_only=True))


class _Served:
    """Writes what a server answers; seeds are the server's business."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, Response]:
        """Return the response to each dialogue by its name."""
        logger.info("asking %s for %d responses of %s", self.server.model, len(dialogues), name)
        how = ChatSampling(sampling.max_tokens, sampling.temperature)
        answers = self.server.answers(list(dialogues.values()), how, no_response)
        return {key: Response.of(answer) for key, answer in zip(dialogues, answers, strict=True)}

    def harness_model(self, own_tasks: bool = False) -> "ServedLM":
        """Return it as a model of lm-evaluation-harness, which sends messages of either kind."""
        from rao_kedro.evals.downstream.harness_model import ServedLM

        return ServedLM(self.server)


if __name__ == "__main__":
    worker_main(main)

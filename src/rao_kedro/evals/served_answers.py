"""Worker that lets a model behind a server respond to the benchmarks.

Responses are kept by their whole request: a run that was killed resumes there.
`python -m rao_kedro.evals.served_answers SPEC`.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.evals.answers import load_named_tasks, write_answers
from rao_kedro.evals.responses import Response, why_no_response
from rao_kedro.evals.specs import ServedAnswersSpec
from rao_kedro.judges.chat_completions import ChatServer
from rao_kedro.judges.client import ChatSampling, Message
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from rao_kedro.evals.downstream.harness_model import ServedLM


def main(spec_path: str) -> None:
    """Write the tables of a spec.

    Args:
        spec_path: JSON of a `ServedAnswersSpec`.

    Raises:
        DataError: A benchmark's file has another form.
        ParameterError: A task of lm-evaluation-harness needs log-probs, is unknown, or cannot be run.
        GenerationError: The server cannot be reached; finished responses are kept.
    """
    spec = ServedAnswersSpec.model_validate_json(Path(spec_path).read_text())
    server = ChatServer.of(spec.server, spec.server.base_url, cache_dir=spec.workspace / "answers")
    write_answers(spec, _Served(server), load_named_tasks(spec, generating_only=True))


class _Served:
    """Writes the responses of a server, which ignores the seed of the sampling."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, Response]:
        """Return the response to each dialogue, by name."""
        logger.info("asking %s for %d responses of %s", self.server.model, len(dialogues), name)
        how = ChatSampling(sampling.max_tokens, sampling.temperature)
        answers = self.server.answers(list(dialogues.values()), how, why_no_response)
        return {key: Response.of(answer) for key, answer in zip(dialogues, answers, strict=True)}

    def harness_model(self, own_tasks: bool = False) -> "ServedLM":
        """Return the server as lm-evaluation-harness takes a model; both kinds of tasks become messages."""
        from rao_kedro.evals.downstream.harness_model import ServedLM

        return ServedLM(self.server)


if __name__ == "__main__":
    worker_main(main)

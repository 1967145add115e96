"""All that a model behind a server writes for the benchmarks: `python -m rao_kedro.evals.served_answers SPEC`.

Every answer is kept by its whole request: a killed run goes on there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rao_kedro.evals.answers import Message, named_tasks, write_benchmarks
from rao_kedro.evals.responses import Response
from rao_kedro.inference.chat_completions import ChatSampling, ChatServer
from rao_kedro.processes import worker_main
from rao_kedro.schemas.benchmarks import ServedAnswersSpec
from rao_kedro.schemas.generation import SamplingParameters

if TYPE_CHECKING:
    from rao_kedro.evals.harness_model import ServedLM


def main(spec_path: str) -> None:
    """Do what a spec file says.

    Args:
        spec_path: JSON of a `ServedAnswersSpec`.

    Raises:
        DataError: A benchmark's files have no usable form.
        ParameterError: A task of lm-evaluation-harness needs log-probs, is unknown, or cannot be run.
        InferenceError: The server stays away; what it answered is kept.
    """
    spec = ServedAnswersSpec.model_validate_json(Path(spec_path).read_text())
    server = ChatServer(**spec.server.model_dump(), cache_dir=spec.workspace / "answers")
    write_benchmarks(spec, _Served(server), named_tasks(spec, generating_only=True))


class _Served:
    """Writes what a server answers; seeds are the server's business."""

    def __init__(self, server: ChatServer) -> None:
        self.server = server

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, Response]:
        """Return the response to each dialogue by its name."""
        print(f"asking {self.server.model} for {len(dialogues)} answers of {name}", flush=True)
        how = ChatSampling(sampling.max_tokens, sampling.temperature)
        answers = self.server.answers(list(dialogues.values()), how)
        return {
            key: Response(answer.text, answer.finish_reason) for key, answer in zip(dialogues, answers, strict=True)
        }

    def harness_model(self, own_tasks: bool = False) -> "ServedLM":
        """Return it as a model of lm-evaluation-harness, which sends messages of either kind."""
        from rao_kedro.evals.harness_model import ServedLM

        return ServedLM(self.server)


if __name__ == "__main__":
    worker_main(main)

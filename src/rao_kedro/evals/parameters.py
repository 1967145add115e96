"""Parameters of the evaluation. Each judged benchmark brings its own block, `evaluation.benchmarks.<name>`.

A location is a local path, or an address that fsspec opens: `https://...`, `hf://datasets/...`; gzipped or not.
"""

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, create_model, model_validator

from rao_kedro.config.base import DIFFERENT_NAMES, FileName, Names, Parameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.servers import JudgeParameters, ServerParameters
from rao_kedro.config.training import Precision
from rao_kedro.evals.benchmark import Benchmark, BenchmarkBlock
from rao_kedro.evals.downstream.parameters import ChainOfThoughtParameters, HarnessParameters, TaskSource
from rao_kedro.evals.downstream.registry import TASKS
from rao_kedro.evals.registry import BENCHMARKS

if TYPE_CHECKING:

    class BenchmarkBlocks(Parameters):
        """A field per judged benchmark."""

else:
    BenchmarkBlocks = create_model(
        "BenchmarkBlocks",
        __base__=Parameters,
        __doc__="A field per judged benchmark.\n\nAttributes:\n"
        + "\n".join(f"    {name}: {kind.title}." for name, kind in BENCHMARKS.items()),
        **{name: (kind.parameters_model, kind.parameters_model()) for name, kind in BENCHMARKS.items()},
    )


class AnsweredBenchmarks(BenchmarkBlocks):
    """What models are asked, and how. Beside these fields there is a block for each judged benchmark.

    Attributes:
        names: Judged benchmarks (`rao_kedro.evals.registry`) and downstream tasks of this project
            (`rao_kedro.evals.downstream.registry`).
        limit: Number of items of each benchmark, of each subject of MMLU and of each task of a group; unset, all.
        max_model_len: Tokens of the longest prompt together with its response.
        chain_of_thought: This project's downstream tasks.
        harness: Tasks of lm-evaluation-harness.
        sources: Where the rows of downstream tasks are, by task; unset, in their usual datasets on the hub.
        seed: Seeds sampling, and the resampling of intervals.
    """

    names: Names = ()
    limit: int | None = Field(None, ge=1)
    max_model_len: int = Field(4096, ge=2)
    chain_of_thought: ChainOfThoughtParameters = ChainOfThoughtParameters()
    harness: HarnessParameters = HarnessParameters()
    sources: dict[str, TaskSource] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        known = (*BENCHMARKS, *TASKS)
        if unknown := [name for name in [*self.names, *self.sources] if name not in known]:
            raise ValueError(
                f"benchmarks: unknown {', '.join(unknown)}; choose of {' '.join(known)}, or name tasks of "
                "lm-evaluation-harness in harness.tasks"
            )
        return self

    @property
    def chosen(self) -> bool:
        """Whether any benchmark is chosen."""
        return bool(self.names or self.harness.tasks)

    @property
    def judged(self) -> list[Benchmark]:
        """The chosen benchmarks that need a judge."""
        return [benchmark for name, benchmark in self.registered().items() if name in self.names]

    @property
    def downstream(self) -> list[str]:
        """The chosen downstream tasks of this project."""
        return [name for name in self.names if name in TASKS]

    def block(self, name: str) -> BenchmarkBlock:
        """Return the parameters of a judged benchmark."""
        block: BenchmarkBlock = getattr(self, name)
        return block

    def registered(self) -> dict[str, Benchmark]:
        """Return every judged benchmark with its parameters, chosen or not."""
        return {name: kind(self.block(name), self.limit, self.seed) for name, kind in BENCHMARKS.items()}


class BenchmarkParameters(AnsweredBenchmarks):
    """The benchmarks of the evaluation.

    Attributes:
        judge: The judge; judged benchmarks need one.
        second_judge: A second judge of AlpacaEval, to measure how far two judges agree. Scores come from `judge`.
        served_models: Further models behind servers that are measured beside the policies, by their names in tables.
            MMLU is impossible for them: it
            compares log-probs of text, which chat servers do not give.
    """

    judge: JudgeParameters | None = None
    second_judge: JudgeParameters | None = None
    served_models: Annotated[dict[FileName, ServerParameters], DIFFERENT_NAMES] = {}

    @model_validator(mode="after")
    def _judged_benchmarks_have_a_judge(self) -> Self:
        if self.judge is None and (judged := [name for name in BENCHMARKS if name in self.names]):
            raise ValueError(f"benchmarks: {' and '.join(judged)}: set evaluation.benchmarks.judge.model, the judge")
        if self.judge and self.second_judge and self.judge.model == self.second_judge.model:
            raise ValueError("benchmarks: judge and second_judge are the same model")
        return self

    @model_validator(mode="after")
    def _servers_give_no_log_probs(self) -> Self:
        if self.served_models and (impossible := [name for name in self.downstream if TASKS[name].log_probs]):
            raise ValueError(
                f"benchmarks: {', '.join(impossible)} compares log-probs behind plain text, which chat servers do not "
                "give: measure the served_models without it"
            )
        return self


class EvaluationParameters(Parameters):
    """The evaluation pipeline.

    Attributes:
        generation: How responses to the held-out prompts are written. The KL divergence from the reference is
            estimated on them. It is NaN where they are no samples of the policy's own distribution: at another
            temperature than 1, with top_p, top_k, min_p or a repetition penalty, or with a quantised engine.
        reward: The reward that scores the responses, beside the rules of their prompts.
        mixed_precision: Precision of the forward passes that score responses.
        max_tokens_per_batch: Tokens of one packed forward pass.
        seed: Seeds the resampling of intervals.
        examples: Number of prompts that the reports show with every method's response.
        benchmarks: Benchmarks that the policies are measured on.
        base_model: Whether the base model, before fine-tuning, is measured too, as the row `base`.
    """

    generation: GenerationParameters
    benchmarks: BenchmarkParameters = BenchmarkParameters()
    reward: RewardParameters = RewardParameters()
    mixed_precision: Precision = "bf16"
    max_tokens_per_batch: int = Field(2048, ge=1)
    seed: int = 0
    examples: int = Field(12, ge=0)
    base_model: bool = False

    @model_validator(mode="after")
    def _policies_are_measured_as_they_are(self) -> Self:
        if self.generation.engine.lora_path is not None:
            raise ValueError(
                "generation.engine.lora_path: every policy would answer with this adapter and be scored without it: "
                "leave it out; what is trained with LoRA is published merged"
            )
        return self

"""Parameters of the evaluation pipeline."""

from pydantic import Field, model_validator

from rao_kedro.config.base import Parameters
from rao_kedro.config.benchmarks import BenchmarkParameters
from rao_kedro.config.generation import GenerationParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.training import Precision


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

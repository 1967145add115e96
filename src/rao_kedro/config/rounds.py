"""Parameters of on-policy rounds: sample responses from the policy, annotate them, train on them, and again."""

import hashlib
from typing import Literal, Self

from pydantic import Field, model_validator

from rao_kedro.config.generation import GenerationParameters


class RoundsParameters(GenerationParameters):
    """On-policy rounds of a method; the fields of `GenerationParameters` say how each round samples.

    A round samples responses from the policy that the last one published (the first from the SFT model), annotates
    them with the reward of `reward_modeling`, computes the reference log-probs, and trains.

    Attributes:
        n: Number of rounds; 0 trains once, on the given responses.
        prompts_per_round: Training prompts of a round. Rounds take the prompts in turn, reshuffled when all have been
            taken. Null takes all in every round.
        samples_per_prompt: Responses that are sampled for each of them.
        offline_share: Share of a round's prompts whose responses are those of the data.
        reference: The reference of all rounds is the SFT model (`fixed`), or that of a round is the policy that it
            samples from (`previous`): `log_z0: auto` is solved again then.
        warm_start: A round trains on from the policy of the last one, and not from the SFT model again.
        evaluate_every: The pipeline `evaluation` measures the policy of every so many rounds, and the last one; with 0
            only the last one.
    """

    n: int = Field(0, ge=0)
    prompts_per_round: int | None = Field(None, ge=1)
    samples_per_prompt: int = Field(4, ge=2)
    offline_share: float = Field(0.0, ge=0, lt=1)
    reference: Literal["fixed", "previous"] = "fixed"
    warm_start: bool = True
    evaluate_every: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _samples_are_of_training(self) -> Self:
        if self.sampling.n != 1:
            raise ValueError(f"sampling.n is {self.sampling.n}: set samples_per_prompt in its place")
        if self.chat_template_kwargs:
            raise ValueError(
                "chat_template_kwargs: training writes prompts without them, so that responses would be sampled after "
                "other prompts: set the variables in a chat template of your own (model.chat_template)"
            )
        if self.reference == "previous" and not self.warm_start:
            raise ValueError("reference: previous is the policy that a round starts from: set warm_start: true")
        return self

    def generation(self, round_: int, seed: int) -> GenerationParameters:
        """Return how a round samples: with a seed that differs between rounds and between training seeds."""
        named = f"{self.sampling.seed}:{seed}:{round_}".encode()
        own_seed = int.from_bytes(hashlib.sha256(named).digest()[:4])
        sampling = self.sampling.model_copy(update={"n": self.samples_per_prompt, "seed": own_seed})
        fields = {name: getattr(self, name) for name in GenerationParameters.model_fields}
        return GenerationParameters(**(fields | {"sampling": sampling}))

    def evaluated(self) -> list[int]:
        """Return the rounds before the last whose policies are measured, too."""
        return [k for k in range(1, self.n) if self.evaluate_every and k % self.evaluate_every == 0]

"""Parameters of the supervised_finetuning pipeline."""

from typing import Literal

from rao_kedro.config.base import Parameters
from rao_kedro.config.training import TrainingParameters


class SupervisedFinetuningParameters(Parameters):
    """From the base model to the model that policies start from.

    Attributes:
        start: `base_model` fine-tunes it. `none` is for a base model that can chat already: nothing is fine-tuned, and
            the base model is the start of every policy, the reference, and the baseline of the evaluation.
        training: Settings of the training loop.
    """

    start: Literal["base_model", "none"] = "base_model"
    training: TrainingParameters

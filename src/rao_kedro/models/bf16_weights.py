"""Weights in bf16: which weights of a module are rounded, and which stay in fp32.

Those of backbones and output embeddings are rounded. Heads of classifiers, weights outside of transformers models and
buffers, such as rotary frequencies, keep their dtype. Knows no optimizer.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rao_kedro.models.adapters import find_heads, outermost_models


def weights_dtype(precision: str) -> torch.dtype:
    """Return the dtype in which a model holds its weights if it is not trained.

    Args:
        precision: As `TrainingParameters.mixed_precision`.
    """
    return torch.bfloat16 if precision == "bf16_weights" else torch.float32


def round_weights(module: nn.Module) -> None:
    """Round the weights of backbones and output embeddings to bf16, in place; tied parameters stay one.

    The heads of classifiers compute in fp32: they get their inputs in fp32.
    """
    for model in outermost_models(module):
        heads = _heads_of_classifier(model)
        kept = {id(parameter) for head in heads for parameter in head.parameters()}
        for parameter in model.parameters():
            if id(parameter) not in kept:
                parameter.data = parameter.data.to(torch.bfloat16)
        for head in heads:
            head.register_forward_pre_hook(_convert_inputs)


def _heads_of_classifier(model: Any) -> list[nn.Module]:
    if model.get_output_embeddings() is not None:
        return []
    return [head for head in find_heads(model) if any(True for _ in head.parameters())]


def _convert_inputs(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the inputs of a head in the dtype of its weights."""
    dtype = next(head.parameters()).dtype
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)

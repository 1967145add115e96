"""Refuses rows at which a rotary embedding would depend on the longest row of the batch.

The types `dynamic` and `longrope` change the frequencies of all rows of a batch as soon as one row is longer than the
model's original length, and `dynamic` keeps the change for later batches. Up to that length, frequencies are constant.
"""

from collections.abc import Mapping
from typing import Any

from rao_kedro.errors import ModelError


def rotary_limit(config: Any) -> int | None:
    """Return the length in tokens up to which a row's embedding does not depend on other rows; None for no limit.

    Args:
        config: The configuration of a transformers model.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [parameters] if "rope_type" in parameters else parameters.values()
    limits = []
    for of_layers in by_layer_type:
        kind = of_layers.get("rope_type", "default") if isinstance(of_layers, Mapping) else "default"
        if "dynamic" in kind:
            limits.append(text.max_position_embeddings)
        elif kind == "longrope":
            limits.append(of_layers["original_max_position_embeddings"])
    return min(limits, default=None)


def refuse_long_rows(model: Any, n_tokens: int, what: str) -> None:
    """Refuse rows so long that they would change the results of other rows.

    Args:
        model: A transformers model.
        n_tokens: Tokens of the longest row.
        what: The row's name in the error.

    Raises:
        ModelError: The row is longer than the model's rotary embedding allows.
    """
    limit = rotary_limit(model.config)
    if limit is not None and n_tokens > limit:
        raise ModelError(
            f"{what} has {n_tokens} tokens. Beyond {limit} tokens, the rotary embedding of {type(model).__name__} "
            "(dynamic or longrope) depends on the longest row of the batch, so the results of a row would depend on "
            f"other rows: limit a prompt and its response to {limit} tokens together"
        )

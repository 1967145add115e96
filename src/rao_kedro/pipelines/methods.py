"""The methods of the study, each a top-level namespace of the alignment and evaluation pipelines."""

from rao_kedro.errors import ParameterError

METHODS = (
    "rao",
    "dpo",
    "ipo",
    "simpo",
    "rpo_distill",
    "cal_dpo",
    "dro",
    "slic_hf",
    "orpo",
    "dpop",
    "dpo_shift",
    "kto",
    "kimi_k15",
    "rpo_partition",
    "dgro",
    "ppo",
)

# What the registry's default pipeline shows. A run takes those of the parameter `methods`.
DEFAULT_METHODS = ("rao", "dpo")


def chosen_methods(names: str) -> tuple[str, ...]:
    """Return the methods that the parameter `methods` names, separated by blanks.

    Raises:
        ParameterError: One is unknown, or none is named.
    """
    chosen = tuple(names.split())
    if unknown := sorted(set(chosen) - set(METHODS)):
        raise ParameterError(f"parameter methods: unknown {', '.join(unknown)}; choose from {' '.join(METHODS)}")
    if not chosen:
        raise ParameterError(f"parameter methods names none; choose from {' '.join(METHODS)}")
    return chosen

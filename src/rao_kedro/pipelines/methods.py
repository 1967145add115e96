"""The methods of the study, and their runs, each a top-level namespace of the alignment and evaluation pipelines."""

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

# Objectives that train without the reference log-probs, as their attribute `needs_reference` says too.
WITHOUT_REFERENCE = ("simpo", "slic_hf", "orpo")
# Objectives that learn from their own samples; their value network starts as the reward model.
ON_POLICY = ("ppo",)
DEFAULT_METHODS = ("rao", "dpo")  # what the default pipeline shows before parameters are loaded

"""Whether RAO's targets can be met: the probability that they give the responses of a prompt together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rao_kedro.data.tables import SPLITS
from rao_kedro.objectives import make_objective


def target_feasibility(
    reward_annotated: Path,
    reference_logprobs: Path,
    rao: Mapping[str, Any],
    responses: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure how many prompts have targets that cannot be met together, where every D_i is 0.

    A target gives a response the probability `pi_ref(y_j|x) exp(r_j/beta) / Z_0`. Those of different responses to a
    prompt cannot all be met if their sum, the target mass, is above 1. That is measured over the responses of the data
    that the run sees: the targets of all possible responses have a larger sum.

    Args:
        reward_annotated: Table of `AnnotatedGroupTable`.
        reference_logprobs: Table of `ReferenceLogProbTable` of the same groups.
        rao: Parameters of the RAO run.
        responses: The run's `responses_per_prompt`: the maximum number of responses per group.
        seed: Seed of the resampling for the intervals.

    Returns:
        A row per split with columns `split, beta, log_z0, infeasible, low, high, n, log_target_mass, feasible_log_z0`:
        the share of infeasible prompts with its 95 % interval over n prompts, the mean log target mass in nats, and the
        smallest log_z0 with which all prompts are feasible, in nats.

    Raises:
        TrainingError: The two tables do not belong together.
    """
    from rao_kedro.data.token_tables import read_groups, read_reference  # the import takes a second
    from rao_kedro.statistics import mean_interval

    reference = read_reference(reference_logprobs, reward_annotated)
    groups = {split: read_groups(reward_annotated, split, ["rewards"], responses) for split in SPLITS}
    objective = make_objective("rao", **rao)
    log_z0 = float(objective.calibrate([group.rewards or [] for group in groups["train"]]).log_z0)
    rows = []
    for split, of_split in groups.items():
        log_masses = np.array(
            [
                np.logaddexp.reduce(np.add(known[: len(rewards)], np.divide(rewards, objective.beta))) - log_z0
                for rewards, known in ((g.rewards or [], reference[g.group_id][1]) for g in of_split)
            ]
        )
        if len(log_masses):
            share = mean_interval(list(map(float, log_masses > 0)), (0, 1), seed)
            rows.append((split, objective.beta, log_z0, *share, log_masses.mean(), log_z0 + log_masses.max()))
    columns = ["split", "beta", "log_z0", "infeasible", "low", "high", "n", "log_target_mass", "feasible_log_z0"]
    return pd.DataFrame(rows, columns=columns)

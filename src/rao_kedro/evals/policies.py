"""Joins a policy's responses with their scores. Imports neither torch nor vLLM."""

import pandas as pd

from rao_kedro.data.requirements import score_responses
from rao_kedro.errors import DataError


def join_scores(generations: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Join responses with the scores of models and rules.

    Args:
        generations: Table of `GenerationTable`, the samples of a prompt in their order.
        scores: Columns `prompt_id, logps, reference_logps, rewards, failures`; all but the first are lists over the
            samples of a prompt.

    Returns:
        Table of `ScoredGenerationTable`.

    Raises:
        DataError: A prompt has no scores, or no response has a reward.
    """
    by_prompt = scores.set_index("prompt_id")
    if missing := sorted(set(generations["prompt_id"]) - set(by_prompt.index)):
        raise DataError(f"{len(missing)} prompts have responses but no scores, the first is {missing[0]}")
    rows = []
    for prompt_id, samples in generations.groupby("prompt_id", sort=False):
        found = by_prompt.loc[prompt_id]
        rules = score_responses(list(samples["response"]), samples["requirements"].iloc[0])
        for i, row in enumerate(samples.to_dict("records")):
            rows.append(
                {
                    "prompt_id": prompt_id,
                    "sample": row["sample"],
                    "prompt": row["messages"][-1]["content"],
                    "response": row["response"],
                    "n_tokens": row["n_tokens"],
                    "finish_reason": row["finish_reason"],
                    "rule_score": rules[i] if rules else float("nan"),
                    "reward": float(found["rewards"][i]),
                    "reward_failure": found["failures"][i],
                    "logp": float(found["logps"][i]),
                    "reference_logp": float(found["reference_logps"][i]),
                }
            )
    table = pd.DataFrame(rows)
    if table["reward"].isna().all():
        raise DataError(
            f"none of {len(table)} generated responses got a reward, for example: {table['reward_failure'].iloc[0]}. "
            "Set evaluation.reward to a reward that scores new responses"
        )
    return table

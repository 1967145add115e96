"""Three splits of the data that share no prompt: `train`, `validation` and `test`.

Training evaluates on `validation`, which may choose a checkpoint or a hyperparameter; `test` is only reported. Two
prompts are the same if their tokens are equal. Knows tables of `TokenizedGroupTable`; no tokenizer, no model, no files.
"""

from collections.abc import Mapping

import pandas as pd

from rao_kedro.data.quarantine import (
    NoGroupsLeftError,
    QuarantineReason,
    quarantined_row,
    quarantined_table,
)

PARTS = ("train", "validation", "test")

# What to do about an empty split, by the source of the data.
REMEDIES = {
    "preferences": {
        "train": "raise data.preferences.train.max_rows, or the length limits of data",
        "validation": "give more held-out rows (data.preferences.test.max_rows), raise the length limits of data, or "
        "name a source for it (data.preferences.validation)",
        "test": "give more held-out rows (data.preferences.test.max_rows), or raise the length limits of data",
    },
    "sampled": {part: f"raise data.sampled.{part}_prompts, or sampling.n" for part in PARTS},
}


def divide_held_out(tokenized_groups: pd.DataFrame, n_test_prompts: int) -> pd.DataFrame:
    """Divide the held-out groups, which readers call `test`, into `test` and `validation`.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable`.
        n_test_prompts: Number of held-out prompts, from the first, that become `test`; at most half of them do. All
            groups of a prompt go to the same split.
    """
    held_out = tokenized_groups["split"] == "test"
    prompts = tokenized_groups["prompt_ids"].map(tuple)
    distinct = list(dict.fromkeys(prompts[held_out]))
    test = set(distinct[: min(n_test_prompts, len(distinct) // 2)])
    validation = held_out & ~prompts.isin(test)
    return tokenized_groups.assign(split=tokenized_groups["split"].mask(validation, "validation"))


def quarantine_reported_prompts(
    tokenized_groups: pd.DataFrame, sources: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Quarantine the `validation` groups whose prompts occur in `test`.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable`.
        sources: The source of each group's row, by the group's id.

    Returns:
        The other groups, and a table of `QuarantineTable`.
    """
    prompts = tokenized_groups["prompt_ids"].map(tuple)
    reported = set(prompts[tokenized_groups["split"] == "test"])
    leaks = (tokenized_groups["split"] == "validation") & prompts.isin(reported)
    reason, detail = QuarantineReason.TEST_PROMPT_IN_VALIDATION, "a test group has the same prompt tokens"
    dropped = [
        quarantined_row(
            sources[row["group_id"]], reason, detail, {"messages": row["messages"], "responses": row["responses"]}
        )
        for row in tokenized_groups[leaks].to_dict("records")
    ]
    return tokenized_groups[~leaks].reset_index(drop=True), quarantined_table(dropped)


def require_every_part(tokenized_groups: pd.DataFrame, source: str, quarantined: pd.DataFrame) -> None:
    """Refuse tables in which a split is empty.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable` with all three splits.
        source: `data.source`.
        quarantined: Table of `QuarantineTable`, for the reasons.

    Raises:
        NoGroupsLeftError: Names the empty splits, the groups of each split, what to do, and why rows were dropped.
    """
    counts = {part: int((tokenized_groups["split"] == part).sum()) for part in PARTS}
    if empty := [part for part, n in counts.items() if n == 0]:
        remedies = "; ".join(f"{part}: {REMEDIES[source][part]}" for part in empty)
        raise NoGroupsLeftError(
            f"no prompt group is left for {' and '.join(empty)}. Training needs train groups, the choice of a "
            f"checkpoint needs validation groups, the report needs test groups, and no two splits share a prompt. "
            f"Groups by split: {counts}. What to do for {remedies}",
            quarantined,
        )


def prompts_of_groups(tokenized_groups: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the first `n` prompts of the `test` groups, each once, as a table of `EvaluationPromptTable`.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable` with all three splits.
        n: The number of prompts; all of them if there are fewer.
    """
    reported = tokenized_groups[tokenized_groups["split"] == "test"]
    first = reported[~reported["prompt_ids"].map(tuple).duplicated()].head(n)
    columns = ["group_id", "messages", "requirements"]
    return first[columns].rename(columns={"group_id": "prompt_id"}).reset_index(drop=True)

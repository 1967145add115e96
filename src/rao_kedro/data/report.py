"""The data report: groups per split, quarantined rows by reason, lengths in tokens, and t_0."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rao_kedro.data.tokenize import longest_t0

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Line = tuple[str, str, object]


def data_report(
    preference_groups: pd.DataFrame,
    quarantined: pd.DataFrame,
    tokenized: pd.DataFrame,
    evaluation_prompts: pd.DataFrame,
    tokenizer: "PreTrainedTokenizerBase",
    t0_length: int,
) -> pd.DataFrame:
    """Return a long table of `section, metric, value`.

    Args:
        preference_groups: Table of `PreferenceGroupTable`.
        quarantined: Table of `QuarantineTable`, from reading and from tokenising.
        tokenized: Table of `TokenizedGroupTable`; its held-out groups may already be divided into two splits.
        evaluation_prompts: Table of `EvaluationPromptTable`.
        tokenizer: Decodes t_0.
        t0_length: Tokens of the prefix t_0 in use.
    """
    lines: list[Line] = []
    read = preference_groups["split"]
    names = {} if (read == "validation").any() else {"test": "held-out"}  # not divided yet
    lines += [("read", f"{split} groups", int(n)) for split, n in read.replace(names).value_counts(sort=False).items()]
    for split, groups in tokenized.groupby("split", sort=False):
        lines += [(f"{split} groups", name, value) for name, value in _group_lines(groups)]
    lines.append(("evaluation", "prompts", len(evaluation_prompts)))
    lines += _quarantine_lines(quarantined)
    lines += _length_lines("prompt tokens", [len(ids) for ids in tokenized["prompt_ids"]])
    lines += _length_lines("response tokens", [len(ids) for group in tokenized["response_ids"] for ids in group])
    shared = longest_t0(tokenized)
    lines += [
        ("t_0", "tokens in use", t0_length),
        ("t_0", "text in use", repr(tokenizer.decode(shared[:t0_length]))),
        ("t_0", "tokens that all prompts share", len(shared)),
        ("t_0", "text that all prompts share", repr(tokenizer.decode(shared))),
    ]
    return _table(lines)


def quarantine_report(quarantined: pd.DataFrame) -> pd.DataFrame:
    """Return the number of quarantined rows by reason: the whole report if no group is left."""
    return _table(_quarantine_lines(quarantined))


def _table(lines: Sequence[Line]) -> pd.DataFrame:
    return pd.DataFrame([(a, b, _shown(c)) for a, b, c in lines], columns=["section", "metric", "value"])


def _quarantine_lines(quarantined: pd.DataFrame) -> list[Line]:
    counts = quarantined["reason"].value_counts()
    return [
        *(("quarantined", str(reason), int(n)) for reason, n in counts.items()),
        ("quarantined", "all", len(quarantined)),
    ]


def _group_lines(groups: pd.DataFrame) -> list[tuple[str, object]]:
    ratings = np.concatenate([np.asarray(r, dtype=float) for r in groups["ratings"]])
    cut = sum(not finished for of_group in groups["finished"] for finished in of_group)
    sizes = groups["responses"].map(len).value_counts().sort_index()
    sources = groups["rated_by"].value_counts() if "rated_by" in groups else pd.Series(dtype=int)
    return [
        ("tokenised", len(groups)),
        ("prompts", groups["prompt_ids"].map(tuple).nunique()),
        ("responses", len(ratings)),
        ("cut responses", f"{cut} ({cut / len(ratings):.1%})"),
        *((f"with {k} responses", int(n)) for k, n in sizes.items()),
        ("rating mean", float(ratings.mean())),
        ("rating standard deviation", float(ratings.std())),
        *((f"rated by {by}", int(n)) for by, n in sources.items()),
    ]


def _length_lines(section: str, lengths: Sequence[int]) -> list[Line]:
    quantiles = {"minimum": 0.0, "median": 0.5, "95 %": 0.95, "maximum": 1.0}
    return [
        (section, "sum", sum(lengths)),
        *((section, name, float(np.quantile(lengths, q))) for name, q in quantiles.items()),
    ]


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""The report on conversations: how many there are, what is learned of them, what was left out, and their lengths."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


class ConversationCounts:
    """Counts for the report, by split."""

    def __init__(self) -> None:
        """Start at zero."""
        self.of_split: dict[str, Counter[str]] = defaultdict(Counter)
        self.lengths = array("l")

    def add(self, row: Mapping[str, Any], tokenized: Mapping[str, Any]) -> None:
        """Count a row of `ConversationTable`, which became a row of `TokenizedConversationTable`."""
        self.of_split[row["split"]].update(
            {
                "conversations": 1,
                "with several assistant turns": int(tokenized["turns"] > 1),
                "assistant turns": tokenized["turns"],
                "tokens": len(tokenized["ids"]),
                "learned tokens": sum(tokenized["learned"]),
                "conversations that were cut": int(tokenized["cut_turns"] > 0),
                "assistant turns that were cut off": tokenized["cut_turns"],
                "user's turns at the end that were dropped": int(row["dropped_user_turn"]),
                "replies of trees beside the best path": row["other_replies"],
            }
        )
        self.lengths.append(len(tokenized["ids"]))

    def report(self, reasons: Mapping[str, int]) -> pd.DataFrame:
        """Return a long table of `section, metric, value`.

        Args:
            reasons: Quarantined rows by reason, from reading and from tokenising.
        """
        lines: list[tuple[str, str, object]] = []
        for split, counts in self.of_split.items():
            lines += [(f"{split} conversations", name, n) for name, n in counts.items()]
            share = counts["learned tokens"] / counts["tokens"]
            lines.append((f"{split} conversations", "share of tokens that is learned", f"{share:.4f}"))
        lines += [("quarantined", reason, n) for reason, n in sorted(reasons.items(), key=lambda of: -of[1])]
        lines.append(("quarantined", "all", sum(reasons.values())))
        quantiles = {"minimum": 0.0, "median": 0.5, "95 %": 0.95, "maximum": 1.0} if self.lengths else {}
        lines += [
            ("tokens of a conversation", name, f"{np.quantile(self.lengths, q):.6g}") for name, q in quantiles.items()
        ]
        return pd.DataFrame([(a, b, str(c)) for a, b, c in lines], columns=["section", "metric", "value"])

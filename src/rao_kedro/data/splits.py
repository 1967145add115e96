"""Three splits of the data that share no prompt: `train`, `validation` and `test`.

Training evaluates on `validation`, which may choose a checkpoint or a hyperparameter; `test` is only reported. Two
prompts are the same if their tokens are equal. Knows digests of prompts; no tokenizer, no model.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from rao_kedro.data.digests import DigestSet, digest
from rao_kedro.data.quarantine import NoGroupsLeftError, QuarantineReason, ReasonCounts, UnusableRow
from rao_kedro.data.table_files import read_batches

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


class HeldOutSplits:
    """The split of every held-out group: which prompts are reported (`test`), and which training evaluates on."""

    def __init__(self, read: Callable[[], Iterable[tuple[str, bytes]]], n_test_prompts: int | None) -> None:
        """Choose the prompts that are reported.

        Args:
            read: Yields the split and the prompt's digest of each held-out group, in the order of the table. Readers
                call them all `test` if there is no source for validation.
            n_test_prompts: Number of the prompts that readers call `test`, from the first, that stay `test`; at most
                half of them do. All groups of a prompt go to the same split. None: all of them stay `test`.
        """
        self._test = DigestSet(prompt for split, prompt in read() if split == "test")
        if n_test_prompts is None:
            return
        n, self._test = min(n_test_prompts, len(self._test) // 2), DigestSet()
        for split, prompt in read():
            if len(self._test) == n:
                break
            if split == "test":
                self._test.add(prompt)

    def split_of(self, split: str, prompt: bytes) -> str:
        """Return the split of a held-out group.

        Args:
            split: What its reader calls it.
            prompt: The digest of its prompt.

        Raises:
            UnusableRow: It is for validation, and its prompt is reported.
        """
        if prompt in self._test:
            if split == "validation":
                raise UnusableRow(QuarantineReason.TEST_PROMPT_IN_VALIDATION, "a test group has the same prompt tokens")
            return "test"
        return "validation"


class SplitsOf:
    """Gives groups the splits that another table of them has, and leaves out those that it does not have."""

    def __init__(self, path: Path) -> None:
        """Read the splits.

        Args:
            path: Parquet with `group_id` and `split`.
        """
        self._splits: dict[str, DigestSet] = {}
        for batch in read_batches(path, ["group_id", "split"]):
            for name, split in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                self._splits.setdefault(split, DigestSet()).add(digest(name))

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch with these splits."""
        keys = [digest(name) for name in batch.column("group_id").to_pylist()]
        found = [next((split for split, names in self._splits.items() if key in names), None) for key in keys]
        at = batch.schema.get_field_index("split")
        changed = batch.set_column(at, "split", pa.array(found, pa.string()))
        return changed.filter(changed.column("split").is_valid())


class EvaluationPrompts:
    """The first prompts of the `test` groups, each once."""

    def __init__(self, n: int) -> None:
        """Start with no prompts.

        Args:
            n: The number of prompts; all of them if there are fewer.
        """
        self.n, self._rows, self._seen = n, list[dict[str, Any]](), DigestSet()

    def take(self, batch: pa.RecordBatch) -> None:
        """Take the prompts of a batch of `divided_batches` that are new."""
        if len(self._rows) == self.n:
            return
        wanted = batch.select(["group_id", "messages", "requirements", "prompt_digest", "split"])
        rows = (row for row in wanted.to_pylist() if row["split"] == "test" and self._seen.add(row["prompt_digest"]))
        for row in islice(rows, self.n - len(self._rows)):
            self._rows.append(
                {"prompt_id": row["group_id"], "messages": row["messages"], "requirements": row["requirements"]}
            )

    def table(self) -> pd.DataFrame:
        """Return a table of `EvaluationPromptTable`."""
        return pd.DataFrame(self._rows, columns=["prompt_id", "messages", "requirements"])


def require_every_part(counts: Mapping[str, int], source: str, reasons: ReasonCounts, quarantined: Path) -> None:
    """Refuse tables in which a split is empty.

    Args:
        counts: The number of groups of each split.
        source: `data.source`.
        reasons: Of the quarantined rows.
        quarantined: Their table.

    Raises:
        NoGroupsLeftError: Names the empty splits, the groups of each split, what to do, and why rows were dropped.
    """
    found = {part: counts.get(part, 0) for part in PARTS}
    if empty := [part for part, n in found.items() if n == 0]:
        remedies = "; ".join(f"{part}: {REMEDIES[source][part]}" for part in empty)
        raise NoGroupsLeftError(
            f"no prompt group is left for {' and '.join(empty)}. Training needs train groups, the choice of a "
            f"checkpoint needs validation groups, the report needs test groups, and no two splits share a prompt. "
            f"Groups by split: {found}. What to do for {remedies}",
            reasons,
            quarantined,
        )

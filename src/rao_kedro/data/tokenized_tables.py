"""Writes the table of tokenised groups: compares groups with each other, batch by batch, and divides them into splits.

Held-out groups are tokenised first, so that their prompts are known when training groups are read. Only digests of
prompts and groups stay in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rao_kedro.data.arrow_schemas import PREFERENCE_GROUPS, TOKENIZED_GROUPS
from rao_kedro.data.digests import DigestSet
from rao_kedro.data.parallel import map_batches
from rao_kedro.data.quarantine import NoGroupsLeftError, QuarantineFile, QuarantineReason, UnusableRow, quarantined_row
from rao_kedro.data.splits import HeldOutSplits
from rao_kedro.data.table_files import TableWriter, count_rows, read_batches
from rao_kedro.data.tokenize import COMPARED_GROUPS, DroppedGroup, GroupTokenizer, TokenizedBatch
from rao_kedro.errors import DataError
from rao_kedro.models.chat import common_prefix
from rao_kedro.progress import report_progress

BATCH = 256  # groups that are tokenised in one call
SHOWN = [name for name in PREFERENCE_GROUPS.names if name in COMPARED_GROUPS.names]  # of a quarantined group


@dataclass(frozen=True)
class TokenizedParts:
    """Tokenised groups before they are divided.

    Attributes:
        train: Training groups, with the columns of `COMPARED_GROUPS`.
        held_out: The other groups.
        t0: The tokens with which most prompts begin; groups with another beginning are left out when they are written.
        empty: The splits of which no group with this beginning is left.
    """

    train: Path
    held_out: Path
    t0: tuple[int, ...]
    empty: list[str]

    def require_groups(self, quarantine: QuarantineFile) -> None:
        """Refuse parts of which a split is empty.

        Args:
            quarantine: The table of quarantined rows, which is complete.

        Raises:
            NoGroupsLeftError: Names the splits, and why rows were dropped.
        """
        if self.empty:
            what = f"no prompt group is left for {' and '.join(self.empty)} after tokenising"
            raise NoGroupsLeftError(what, quarantine.reasons, quarantine.path)

    def remove(self) -> None:
        """Remove the files."""
        self.train.unlink()
        self.held_out.unlink()


class _Comparison:
    """Compares groups with those that came before."""

    def __init__(self, quarantine: QuarantineFile, t0_length: int) -> None:
        self.quarantine, self.t0_length = quarantine, t0_length
        self.held_out, self._seen = DigestSet(), DigestSet()
        self.beginnings: Counter[tuple[tuple[int, ...], str]] = Counter()

    def take(self, tokenized: TokenizedBatch, writer: TableWriter) -> None:
        """Write the groups of a batch that are new, and quarantine the others."""
        groups = tokenized.groups
        splits, prompts, wholes = (groups.column(name).to_pylist() for name in ("split", "prompt_digest", "digest"))
        keep, rows = [], iter(range(groups.num_rows))
        for outcome in tokenized.outcomes:
            if isinstance(outcome, DroppedGroup):
                self._drop(outcome)
                continue
            row = next(rows)
            if splits[row] != "train":
                self.held_out.add(prompts[row])
            elif prompts[row] in self.held_out:
                _quarantine(self.quarantine, groups, row, *LEAK)
                continue
            if self._seen.add(wholes[row]):
                keep.append(row)
                self.quarantine.write_rows(outcome)
            else:
                _quarantine(self.quarantine, groups, row, *DUPLICATE)
        kept = groups.take(pa.array(keep, pa.int64()))
        self.beginnings.update(
            (tuple(beginning), splits[row])
            for beginning, row in zip(_beginnings(kept, self.t0_length).tolist(), keep, strict=True)
        )
        writer.write_batch(kept)

    def _drop(self, group: DroppedGroup) -> None:
        """Quarantine a group that cannot be used; its prompt is still held out, or known as held out."""
        record = group.record
        if group.prompt is not None and group.split != "train":
            self.held_out.add(group.prompt)
        elif group.prompt is not None and group.prompt in self.held_out:
            record = {**record, "reason": str(LEAK[0]), "detail": LEAK[1]}
        self.quarantine.write(record)


LEAK = QuarantineReason.HELD_OUT_PROMPT_IN_TRAIN, "a prompt of the held-out split has the same tokens"
DUPLICATE = QuarantineReason.DUPLICATE_ROW, "an earlier group has the same tokens"


def tokenize_groups(
    preference_groups: Path,
    directory: Path,
    tokenizer: GroupTokenizer,
    quarantine: QuarantineFile,
    num_proc: int = 1,
    splits: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
) -> TokenizedParts:
    """Tokenise prompt groups.

    Some faults show only in the tokens, and such rows are quarantined: responses that are empty or equal after the
    template is applied, duplicate groups, and training prompts that are also held out.

    Args:
        preference_groups: Table of `PreferenceGroupTable`.
        directory: Where the parts are written.
        tokenizer: Tokenises a batch.
        quarantine: Takes the groups that cannot be used.
        num_proc: Processes that tokenise.
        splits: Changes a batch before its split is read; None leaves all as they are.

    Raises:
        DataError: Most prompts do not share t_0.
    """
    comparison = _Comparison(quarantine, tokenizer.limits.t0_length)
    parts = {"held_out": ("validation", "test"), "train": ("train",)}
    there: Counter[str] = Counter()
    total, done = count_rows(preference_groups), 0
    beginnings: list[Counter[tuple[tuple[int, ...], str]]] = []
    for part, of_part in parts.items():
        comparison.beginnings = Counter()
        with TableWriter(directory / f"{part}.parquet", COMPARED_GROUPS) as writer:
            batches = _counted(_of_splits(preference_groups, of_part, splits), there)
            for tokenized in map_batches(tokenizer, batches, num_proc):
                comparison.take(tokenized, writer)
                done += len(tokenized.outcomes)
                report_progress("tokenising", done, total, "groups")
        beginnings.append(comparison.beginnings)
    counts = beginnings[1] + beginnings[0]  # in the order of the table: training groups first
    files = directory / "train.parquet", directory / "held_out.parquet"
    t0 = _shared_t0(counts, files, tokenizer.limits.t0_length)
    left = Counter({split: n for (beginning, split), n in counts.items() if beginning == t0})
    empty = [split for split in sorted(there, key=lambda split: split != "train") if not left[split]]
    return TokenizedParts(*files, t0, empty)


def divided_batches(
    parts: TokenizedParts, n_test_prompts: int | None, quarantine: QuarantineFile
) -> Iterator[pa.RecordBatch]:
    """Yield the groups that begin with t_0 in batches of `COMPARED_GROUPS`, training groups first, in their splits.

    Args:
        parts: The tokenised groups.
        n_test_prompts: The number of held-out prompts that become `test`; see `HeldOutSplits`.
        quarantine: Takes the groups with another beginning, and those for validation whose prompt is reported.
    """
    yield from _sharing([parts.train], parts.t0, quarantine)

    def read() -> Iterator[tuple[str, bytes]]:
        for batch in _sharing([parts.held_out], parts.t0, None, ["split", "prompt_digest", "prompt_ids"]):
            yield from zip(batch.column("split").to_pylist(), batch.column("prompt_digest").to_pylist(), strict=True)

    chosen = HeldOutSplits(read, n_test_prompts)
    for batch in _sharing([parts.held_out], parts.t0, quarantine):
        keep, splits = [], []
        of_batch = (batch.column(name).to_pylist() for name in ("split", "prompt_digest"))
        for row, (split, prompt) in enumerate(zip(*of_batch, strict=True)):
            try:
                splits.append(chosen.split_of(split, prompt))
                keep.append(row)
            except UnusableRow as problem:
                _quarantine(quarantine, batch, row, problem.reason, problem.detail)
        kept = batch.take(pa.array(keep, pa.int64()))
        yield kept.set_column(kept.schema.get_field_index("split"), "split", pa.array(splits, pa.string()))


def write_groups(path: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Write a table of `TokenizedGroupTable`, and yield its batches on; it is complete after the last one."""
    with TableWriter(path, TOKENIZED_GROUPS) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield batch


def write_tokenized(
    preference_groups: Path,
    path: Path,
    tokenizer: GroupTokenizer,
    num_proc: int = 1,
    splits: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
) -> Path:
    """Write a table of `TokenizedGroupTable` in the splits that its groups have.

    Args:
        preference_groups: Table of `PreferenceGroupTable`.
        path: The table.
        tokenizer: Tokenises a batch.
        num_proc: Processes that tokenise.
        splits: Changes a batch before its split is read; None leaves all as they are.

    Returns:
        The path of a table of `QuarantineTable` beside it.

    Raises:
        DataError: Most prompts do not share t_0, or a split has no group left (`NoGroupsLeftError`).
    """
    with QuarantineFile(path.with_name(f"{path.stem}_quarantined.parquet")) as quarantine:
        parts = tokenize_groups(preference_groups, path.parent, tokenizer, quarantine, num_proc, splits)
        for _ in write_groups(path, _sharing([parts.train, parts.held_out], parts.t0, quarantine)):
            pass
    parts.remove()
    parts.require_groups(quarantine)
    return quarantine.path


def _of_splits(
    path: Path, splits: Sequence[str], change: Callable[[pa.RecordBatch], pa.RecordBatch] | None
) -> Iterator[pa.RecordBatch]:
    """Yield the groups of some splits."""
    if change is None:
        yield from read_batches(path, batch=BATCH, where=("split", splits))
        return
    for batch in map(change, read_batches(path, batch=BATCH)):
        found = batch.filter(pc.is_in(batch.column("split"), pa.array(splits)))
        if found.num_rows:
            yield found


def _counted(batches: Iterable[pa.RecordBatch], counts: Counter[str]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        counts.update(batch.column("split").to_pylist())
        yield batch


def _shared_t0(counts: Counter[tuple[tuple[int, ...], str]], files: Sequence[Path], t0_length: int) -> tuple[int, ...]:
    """Return the most frequent beginning of prompts.

    Raises:
        DataError: Most prompts begin with other tokens.
    """
    beginnings: Counter[tuple[int, ...]] = Counter()
    for (beginning, _), n in counts.items():
        beginnings[beginning] += n
    if not beginnings:
        return ()
    ((t0, sharing),) = beginnings.most_common(1)
    strangers = beginnings.total() - sharing
    if strangers <= sharing:
        return t0
    prefix: list[int] | None = None
    example = ""
    for path in files:
        for batch in read_batches(path, ["group_id", "prompt_ids"]):
            for row in batch.to_pylist():
                prefix = common_prefix([prefix if prefix is not None else row["prompt_ids"], row["prompt_ids"]])
                if not example and tuple(row["prompt_ids"][:t0_length]) != t0:
                    example = f"{row['group_id']} {_stranger(row['prompt_ids'][:t0_length], t0)}"
    longest = len(prefix or [])
    advice = (
        f"set the global t0_length (data.t0_length) to {longest} or less, since all prompts share {longest} tokens"
        if longest
        else "they have no first token in common, which the chat template should put before every prompt"
    )
    raise DataError(
        f"{strangers} of {beginnings.total()} prompts do not start with the most frequent {t0_length} tokens, "
        f"so they share no t_0: {advice}. For example, {example}"
    )


def _sharing(
    files: Sequence[Path], t0: Sequence[int], quarantine: QuarantineFile | None, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the groups that begin with t_0, and quarantine the others, unless it is None."""
    for path in files:
        for batch in read_batches(path, columns):
            beginnings = _beginnings(batch, len(t0))
            same = (beginnings == np.array(t0, dtype=beginnings.dtype)).all(axis=1)
            if quarantine is not None:
                for row in np.flatnonzero(~same):
                    detail = _stranger(beginnings[row].tolist(), t0)
                    _quarantine(quarantine, batch, int(row), QuarantineReason.PROMPT_NOT_T0, detail)
            yield batch.filter(pa.array(same))


def _beginnings(batch: pa.RecordBatch, length: int) -> "np.ndarray[Any, Any]":
    """Return the first tokens of each prompt, [groups, length]; all prompts are longer."""
    ids = batch.column("prompt_ids")
    offsets = ids.offsets.to_numpy()[:-1]
    return ids.values.to_numpy()[offsets[:, None] + np.arange(length)]


def _stranger(beginning: Sequence[int], t0: Sequence[int]) -> str:
    return f"starts with tokens {list(beginning)}, t_0 is {list(t0)}"


def _quarantine(
    quarantine: QuarantineFile, batch: pa.RecordBatch, row: int, reason: QuarantineReason, detail: str
) -> None:
    (content,) = batch.slice(row, 1).select(SHOWN).to_pylist()
    quarantine.write(quarantined_row(content["source"], reason, detail, content))

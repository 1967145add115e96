"""Joins rewards to prompt groups batch by batch, and quarantines responses without a reward. Knows no model."""

import json
import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from rao_kedro.config.reward_modeling import Normalisation
from rao_kedro.data.arrow_schemas import ANNOTATED_GROUPS, REWARDS, TOKENIZED_GROUPS
from rao_kedro.data.narrow_tables import read_narrow, read_narrow_batches
from rao_kedro.data.quarantine import QuarantineFile, QuarantineReason, quarantined_row
from rao_kedro.data.table_files import TableWriter, read_batches, read_rows
from rao_kedro.data.tokenize import Pairing, choose_pair
from rao_kedro.errors import DataError
from rao_kedro.rewards.transforms import fit_transforms, transform

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
PER_RESPONSE = ("responses", "response_ids", "ratings", "finished", "rewards", "truncated", "earlier_turns", "learned")


def join_rewards(
    tokenized_groups: Path,
    scores: Path,
    directory: Path,
    normalisation: Normalisation,
    pairing: Pairing,
    seed: int,
    clip: float | None = None,
    length_penalty: float = 0.0,
) -> tuple[Path, Path]:
    """Add rewards to groups, transformed as the arguments say. Of the groups, only rewards and lengths are in memory.

    Args:
        tokenized_groups: Table of `TokenizedGroupTable`.
        scores: Table with the columns of `arrow_schemas.REWARDS`, its groups in the order of `tokenized_groups`.
        directory: Where the tables are written.
        normalisation: The last transform; see `rewards.transforms`.
        pairing: How a pair is chosen in a group that lost responses; see `choose_pair`.
        seed: Seed of the random pairing.
        clip: Largest distance from the median of the training split, in robust standard deviations, to which rewards
            are clipped before they are normalised. None does not clip.
        length_penalty: Subtracted from the raw reward, before anything else, per token of the response.

    Returns:
        Paths of tables of `AnnotatedGroupTable` and `QuarantineTable`.

    Raises:
        DataError: A group has no row of scores, no training group is left, or all rewards are equal.
    """
    _require_scores(tokenized_groups, scores)
    statistics = _Statistics(_kept_rewards(tokenized_groups, scores), normalisation, clip, length_penalty)
    paths = directory / "reward_annotated.parquet", directory / "unscored_responses.parquet"
    with TableWriter(paths[0], ANNOTATED_GROUPS) as annotated, QuarantineFile(paths[1]) as unscored:
        at = 0
        for groups, of_groups in _joined(read_batches(tokenized_groups, TOKENIZED_GROUPS.names), scores):
            if any(failure for row in of_groups for failure in row["failures"]):
                rows = [row | score for row, score in zip(groups.to_pylist(), of_groups, strict=True)]
                for row in rows:
                    unscored.write_rows(_failures(row))
                of_groups = [kept for row in rows if (kept := _of_scored_responses(row, pairing, seed)) is not None]
                kept_rows = [{name: row[name] for name in TOKENIZED_GROUPS.names} for row in of_groups]
                groups = pa.RecordBatch.from_pylist(kept_rows, schema=TOKENIZED_GROUPS)
            annotated.write_batch(statistics.add_to(groups, of_groups, at))
            at += sum(len(row["rewards"]) for row in of_groups)
    return paths


def _require_scores(tokenized_groups: Path, scores: Path) -> None:
    groups, scored = (
        (name for batch in read_batches(path, ["group_id"]) for name in batch.column(0).to_pylist())
        for path in (tokenized_groups, scores)
    )
    if all(name == other for name, other in zip_longest(groups, scored)):
        return
    known = {row["group_id"] for row in read_rows(scores, ["group_id"])}
    unscored = [row["group_id"] for row in read_rows(tokenized_groups, ["group_id"]) if row["group_id"] not in known]
    what = (
        f"{len(unscored)} groups have no rewards, for example {unscored[0]}"
        if unscored
        else "the rewards are those of other groups, or in another order"
    )
    raise DataError(f"{what}: annotate the responses again")


def _joined(groups: Iterable[pa.RecordBatch], scores: Path) -> Iterator[tuple[pa.RecordBatch, list[dict[str, Any]]]]:
    """Yield batches of groups with the rows of their scores."""
    rows = read_rows(scores, REWARDS.names)
    for batch in groups:
        yield batch, list(islice(rows, batch.num_rows))


class _Kept(NamedTuple):
    """Of all responses kept: raw rewards, tokens, and whether of a training group. Then the size of each group."""

    rewards: NDArray[np.float64]
    lengths: NDArray[np.int64]
    training: NDArray[np.bool_]
    sizes: Sequence[int]


def _kept_rewards(groups: Path, scores: Path) -> _Kept:
    """Return the rewards of all responses that are kept.

    Raises:
        DataError: No training group is kept, or all rewards are equal.
    """
    rewards, lengths, sizes, training = array("d"), array("q"), array("q"), bytearray()
    n_failures, example = 0, ""
    for batch, of_groups in _joined(read_narrow_batches(groups, ["split", "ratings", "response_lengths"]), scores):
        for row, score in zip(batch.to_pylist(), of_groups, strict=True):
            failures = [failure for failure in score["failures"] if failure]
            n_failures += len(failures)
            example = example or next(iter(failures), "")
            kept = [i for i, failure in enumerate(score["failures"]) if not failure]
            if failures and len({row["ratings"][i] for i in kept}) < 2:
                continue
            rewards.extend(score["rewards"][i] for i in kept)
            lengths.extend(row["response_lengths"][i] for i in kept)
            sizes.append(len(kept))
            training += bytes([row["split"] == "train"] * len(kept))
    if not any(training):
        why = f"{n_failures} responses got no reward, for example: {example}"
        raise DataError(f"no training group is left: {why if n_failures else 'the table of groups has none'}")
    raw = np.frombuffer(rewards, dtype=float)
    if len(raw) > 1 and np.ptp(raw) == 0.0:
        raise DataError(f"all {len(raw)} rewards are {raw[0]}: the reward does not distinguish responses")
    return _Kept(raw, np.frombuffer(lengths, dtype=np.int64), np.frombuffer(training, dtype=bool), sizes)


def _failures(row: Mapping[str, Any]) -> list[dict[str, str]]:
    reason = QuarantineReason.UNSCORED_RESPONSE
    return [
        quarantined_row(row["group_id"], reason, failure, {"response": response})
        for failure, response in zip(row["failures"], row["responses"], strict=True)
        if failure
    ]


def _of_scored_responses(row: dict[str, Any], pairing: Pairing, seed: int) -> dict[str, Any] | None:
    """Return a row without the responses that got no reward; None if no preference is left."""
    if not any(row["failures"]):
        return row
    kept = [i for i, failure in enumerate(row["failures"]) if not failure]
    row = row | {name: [row[name][i] for i in kept] for name in PER_RESPONSE if row[name]}
    if len(set(row["ratings"])) < 2:
        return None
    chosen, rejected = choose_pair(row["ratings"], pairing, random.Random(f"{seed}-{row['group_id']}"))
    return row | {"chosen": chosen, "rejected": rejected}


class _Statistics:
    """The final rewards of all responses, the transforms that made them, and their mean, deviation and quantiles."""

    def __init__(self, kept: _Kept, normalisation: Normalisation, clip: float | None, length_penalty: float) -> None:
        training = kept.rewards[kept.training], kept.lengths[kept.training]
        transforms = fit_transforms(*training, normalisation, clip, length_penalty)
        self.rewards = rewards = transform(transforms, kept.rewards, kept.lengths, kept.sizes)
        self.of_table = {
            "reward_transforms": json.dumps(transforms),
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "reward_quantiles": np.quantile(rewards, QUANTILES).tolist(),
        }

    def add_to(self, groups: pa.RecordBatch, scores: Sequence[Mapping[str, Any]], at: int) -> pa.Table:
        """Return groups with their rewards; `at` is the place of their first reward in the table."""
        ends = np.cumsum([0, *(len(row["rewards"]) for row in scores)])
        final = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(self.rewards[at : at + ends[-1]]))
        columns = {name: groups.column(name) for name in TOKENIZED_GROUPS.names}
        columns |= {"raw_rewards": [row["rewards"] for row in scores], "rewards": final}
        columns |= {name: [row[name] for row in scores] for name in ("truncated", "reward_model")}
        columns |= {name: [value] * len(scores) for name, value in self.of_table.items()}
        return pa.table([columns[name] for name in ANNOTATED_GROUPS.names], schema=ANNOTATED_GROUPS)


def read_rewards(reward_annotated: Path) -> pd.DataFrame:
    """Read what reports on rewards need of a table of `AnnotatedGroupTable`: all but its texts and tokens.

    Returns:
        A row per group: its id, split, pair, rewards, ratings, which responses were cut short, and the number of tokens
        of each response, `response_lengths`.
    """
    columns = "group_id split chosen rejected ratings raw_rewards rewards truncated response_lengths"
    [first] = islice(read_rows(reward_annotated, ["reward_transforms"]), 1)
    table = read_narrow(reward_annotated, columns.split())
    # Kilobytes that are the same in all rows: a column of texts would hold a copy for each.
    return table.assign(
        reward_transforms=pd.Categorical.from_codes([0] * len(table), pd.Index([first["reward_transforms"]]))
    )


def recorded_transforms(reward_annotated: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the steps of `rewards.transforms` between the raw rewards of an `AnnotatedGroupTable` and its rewards."""
    steps: list[dict[str, Any]] = json.loads(reward_annotated["reward_transforms"].iloc[0])
    return steps

"""Rewards of the responses that a policy sampled in a round, on the scale of the data's rewards. Knows no model."""

import json
import random
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rao_kedro.data.arrow_schemas import ANNOTATED_GROUPS, REWARDS
from rao_kedro.data.quarantine import NoGroupsLeftError, QuarantineFile, QuarantineReason, quarantined_row
from rao_kedro.data.table_files import TableWriter, read_rows
from rao_kedro.data.tokenize import Pairing, choose_pair
from rao_kedro.rewards.annotation import PER_RESPONSE, QUANTILES
from rao_kedro.rewards.transforms import apply_transforms

OF_TABLE = ("reward_mean", "reward_std", "reward_quantiles")


def join_round(
    sampled: Path,
    scores: Path,
    annotated: Path,
    offline: Collection[str],
    directory: Path,
    pairing: Pairing,
    seed: int,
    pairs: bool,
) -> tuple[Path, Path]:
    """Write what a round trains on: sampled groups with rewards, groups of the data, and its validation groups.

    Raw rewards become rewards by the transforms that the data's rewards were given, so that a target means the same in
    every round. The rewards are the ratings of sampled responses, too: they decide which one is chosen.

    Args:
        sampled: Table of `data.rounds.write_sampled_groups`.
        scores: Table with the columns of `arrow_schemas.REWARDS`, its groups in the order of `sampled`.
        annotated: Table of `AnnotatedGroupTable` with the data's groups.
        offline: Ids of its training groups that the round trains on as they are.
        directory: Where the tables are written.
        pairing: How the rejected response is chosen.
        seed: Seed of the random pairing.
        pairs: Whether the method reads pairs: groups whose rewards are all equal are quarantined then.

    Returns:
        Paths of tables of `SampledGroupTable` and `QuarantineTable`: responses without a reward, and groups that
        cannot be trained on.

    Raises:
        NoGroupsLeftError: No training group is left.
    """
    read = _Round(sampled, scores, annotated, offline, pairing, seed, pairs)
    paths = directory / "reward_annotated.parquet", directory / "unscored_responses.parquet"
    rewards = np.array([reward for row in read.rows(None) for reward in row["rewards"]])
    statistics = (float(rewards.mean()), float(rewards.std()), np.quantile(rewards, QUANTILES).tolist())
    n_train = 0
    with TableWriter(paths[0], ANNOTATED_GROUPS) as table, QuarantineFile(paths[1]) as quarantine:
        for row in read.rows(quarantine):
            n_train += row["split"] == "train"
            table.write(row | dict(zip(OF_TABLE, statistics, strict=True)))
    if not n_train:
        raise NoGroupsLeftError("no group of the round is left to train on", quarantine.reasons, quarantine.path)
    return paths


class _Round:
    """The rows of a round's table, which are read twice: for their statistics, and to be written."""

    def __init__(
        self,
        sampled: Path,
        scores: Path,
        annotated: Path,
        offline: Collection[str],
        pairing: Pairing,
        seed: int,
        pairs: bool,
    ) -> None:
        self.sampled, self.scores, self.annotated, self.offline = sampled, scores, annotated, offline
        self.pairing, self.seed, self.pairs = pairing, seed, pairs
        (first,) = islice(read_rows(annotated, ["reward_transforms"]), 1)
        self.written_transforms = first["reward_transforms"]
        self.transforms: list[dict[str, Any]] = json.loads(self.written_transforms)

    def rows(self, quarantine: QuarantineFile | None) -> Iterator[dict[str, Any]]:
        """Yield all rows but the statistics of the table; what cannot be used goes to the quarantine."""
        for row, score in zip(read_rows(self.sampled), read_rows(self.scores, REWARDS.names), strict=True):
            kept, records = self._with_rewards(row | score)
            if quarantine is not None:
                quarantine.write_rows(records)
            if kept is not None:
                yield kept
        for row in read_rows(self.annotated, where=("group_id", self.offline)):
            yield row
        yield from read_rows(self.annotated, where=("split", ["validation"]))

    def _with_rewards(self, row: dict[str, Any]) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
        failed = row.pop("failures")
        records = [
            quarantined_row(row["group_id"], QuarantineReason.UNSCORED_RESPONSE, failure, {"response": response})
            for failure, response in zip(failed, row["responses"], strict=True)
            if failure
        ]
        kept = [i for i, failure in enumerate(failed) if not failure]
        row |= {name: [row[name][i] for i in kept] for name in PER_RESPONSE if row[name]}
        raw = row["rewards"]
        if len(kept) < 2:
            detail = f"{len(kept)} of {len(failed)} responses got a reward, 2 are needed"
            return None, [*records, quarantined_row(row["group_id"], QuarantineReason.TOO_FEW_RESPONSES, detail, row)]
        lengths = [len(ids) for ids in row["response_ids"]]
        rewards = apply_transforms(self.transforms, [raw], [lengths])[0].tolist()
        equal = len({*rewards}) == 1
        if equal and self.pairs:
            detail = f"all {len(rewards)} responses have the reward {rewards[0]}"
            return None, [*records, quarantined_row(row["group_id"], QuarantineReason.EQUAL_RATINGS, detail, row)]
        chosen, rejected = 0, 1
        if not equal:
            chosen, rejected = choose_pair(rewards, self.pairing, random.Random(f"{self.seed}-{row['group_id']}"))
        row |= {"raw_rewards": raw, "rewards": rewards, "ratings": rewards, "chosen": chosen, "rejected": rejected}
        return row | {"reward_transforms": self.written_transforms}, records

"""Rewards of responses that the reference wrote to each prompt: one table, which every method that needs it shares.

Makes groups of the samples, brings their rewards to the scale of the annotated ones,
and reads the table for training. Knows no model.
"""

import json
from array import array
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby, pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rao_kedro.data.arrow_schemas import MESSAGES, REFERENCE_REWARDS, REWARDS
from rao_kedro.data.digests import DigestIndex, digest
from rao_kedro.data.quarantine import QuarantineFile, QuarantineReason, quarantined_row
from rao_kedro.data.table_files import TableWriter, read_rows
from rao_kedro.errors import DataError, TrainingError
from rao_kedro.identity import combined_hash, content_hash
from rao_kedro.rewards.transforms import apply_transforms

if TYPE_CHECKING:
    from rao_kedro.models.packing import TokenIds, TokenizedGroup

TRAINED = ("split", ("train", "validation"))  # the groups that training reads
SAMPLED_GROUPS = pa.schema(
    {
        "group_id": pa.string(),
        "messages": MESSAGES,
        "responses": pa.list_(pa.string()),
        "requirements": pa.string(),
        "ratings": pa.list_(pa.float64()),
        "finished": pa.list_(pa.bool_()),
    }
)


def write_sampled_groups(generations: Path, path: Path, end_of_turn_ids: Collection[int]) -> None:
    """Write the samples of each prompt as a group of responses, which rewards read.

    Args:
        generations: Table of `GenerationTable`, in which the samples of a prompt stand together.
        path: Parquet to write, with the columns of `PromptGroups`.
        end_of_turn_ids: A finished response ends with one of these tokens.
    """
    columns = ["prompt_id", "messages", "requirements", "response", "response_ids"]
    with TableWriter(path, SAMPLED_GROUPS) as writer:
        for prompt_id, samples in groupby(read_rows(generations, columns), key=lambda row: row["prompt_id"]):
            rows = [*samples]
            writer.write(
                {
                    "group_id": prompt_id,
                    "messages": rows[0]["messages"],
                    "responses": [row["response"] for row in rows],
                    "requirements": rows[0]["requirements"],
                    "ratings": None,
                    "finished": [row["response_ids"][-1] in end_of_turn_ids for row in rows],
                }
            )


def join_reference_rewards(
    reward_annotated: Path, generations: Path, scores: Path, reference_dir: Path, directory: Path
) -> tuple[Path, Path]:
    """Write the rewards of the reference's responses to each prompt, on the scale of the annotated rewards.

    Args:
        reward_annotated: Table of `AnnotatedGroupTable`; its `reward_transforms` make final rewards of raw ones.
        generations: Table of `GenerationTable` of the prompts that `data.rounds.write_prompts` has written.
        scores: Table with the columns of `arrow_schemas.REWARDS`, a row per prompt in the same order.
        reference_dir: The model that has written the responses.
        directory: Where the tables are written.

    Returns:
        Paths of tables of `ReferenceRewardTable`, a row per training or validation group, and of `QuarantineTable`:
        responses that could not be scored, which are left out of the rewards.

    Raises:
        DataError: The tables do not belong together, or no response got a reward.
    """
    paths = directory / "reference_rewards.parquet", directory / "unscored_reference_responses.parquet"
    groups = read_rows(reward_annotated, ["group_id", "prompt_ids", "reward_model", "reward_transforms"], where=TRAINED)
    columns = ["prompt_id", "prompt_ids", "response", "n_tokens"]
    samples = ([*rows] for _, rows in groupby(read_rows(generations, columns), key=lambda row: row["prompt_id"]))
    key, n_rewards, failure = "", 0, ""
    with TableWriter(paths[0], REFERENCE_REWARDS) as table, QuarantineFile(paths[1]) as unscored:
        for group, of_prompt, scored in zip_longest(groups, samples, read_rows(scores, REWARDS.names)):
            _require_same(group, of_prompt, scored)
            key = key or reference_rewards_key(reference_dir, group)
            kept = [i for i, why in enumerate(scored["failures"]) if not why]
            for sample, why in zip(of_prompt, scored["failures"], strict=True):
                if why:
                    failure = failure or why
                    row = {"response": sample["response"]}
                    unscored.write(quarantined_row(group["group_id"], QuarantineReason.UNSCORED_RESPONSE, why, row))
            raw, lengths = [scored["rewards"][i] for i in kept], [of_prompt[i]["n_tokens"] for i in kept]
            (rewards,) = apply_transforms(json.loads(group["reward_transforms"]), [raw], [lengths])
            n_rewards += len(kept)
            row = {"group_id": group["group_id"], "prompt": prompt_digest(group["prompt_ids"]), "key": key}
            table.write(row | {"raw_rewards": raw, "rewards": rewards.tolist()})
        if not n_rewards:
            raise DataError(f"no response of the reference got a reward, for example: {failure or 'there are none'}")
    return paths


def _require_same(
    group: Mapping[str, Any] | None, samples: Sequence[Mapping[str, Any]] | None, scored: Mapping[str, Any] | None
) -> None:
    """Refuse rows that do not belong together.

    Raises:
        DataError: Says what to do.
    """
    if group is None or samples is None or scored is None:
        raise DataError("the reference's responses are to other prompts than those of the groups: sample them again")
    name = group["group_id"]
    if not (samples[0]["prompt_id"] == scored["group_id"] == name):
        raise DataError(f"group {name} has no responses of the reference in its place: sample them again")
    if samples[0]["prompt_ids"] != group["prompt_ids"]:
        raise DataError(
            f"group {name}: the chat template writes other prompt tokens than when the groups were tokenised: run the "
            "pipelines from the node `tokenize` again"
        )
    if scored["reward_model"] != group["reward_model"]:
        raise DataError(
            f"the reward has changed since the groups were annotated (it was {group['reward_model']}, and is "
            f"{scored['reward_model']}): run the node `annotate_responses` again"
        )


def prompt_digest(prompt_ids: "TokenIds") -> str:
    """Return the digest of a prompt's token ids, as text."""
    return digest(np.asarray(prompt_ids, dtype=np.int32).tobytes()).hex()


def reference_rewards_key(reference_dir: Path, annotated: Mapping[str, Any]) -> str:
    """Return a hash of what rewards of a reference's responses depend on, besides the prompts and the sampling.

    Args:
        reference_dir: The reference model.
        annotated: `reward_model` and `reward_transforms` of an `AnnotatedGroupTable`.
    """
    return combined_hash(content_hash(reference_dir), annotated["reward_model"], annotated["reward_transforms"])


class ReferenceRewards:
    """Rewards of the reference's responses by group; 24 bytes per group and 8 per reward are in memory.

    Attributes:
        empty: Number of groups without a reward.
    """

    def __init__(self, path: Path) -> None:
        """Read a table of `ReferenceRewardTable`."""
        digests, rewards, ends = bytearray(), array("d"), array("q", [0])
        for row in read_rows(path, ["group_id", "prompt", "rewards"]):
            digests += digest(row["group_id"], row["prompt"])
            rewards.extend(row["rewards"])
            ends.append(len(rewards))
        self._path, self._index = path, DigestIndex(bytes(digests))
        self._rewards, self._ends = rewards, ends
        self.empty = sum(start == end for start, end in pairwise(ends))

    def of(self, group: "TokenizedGroup") -> list[float]:
        """Return the rewards of a group's prompt; there may be none.

        Raises:
            TrainingError: The table has no such group, or one with another prompt.
        """
        row = self._index.find(digest(group.group_id, prompt_digest(group.prompt_ids)))
        if row is None:
            raise TrainingError(
                f"{self._path} has no rewards for the prompt of group {group.group_id}: run the pipeline `alignment` "
                "from its node `sample_reference` again"
            )
        return self._rewards[self._ends[row] : self._ends[row + 1]].tolist()


def read_reference_rewards(path: Path, groups_path: Path, reference_dir: Path) -> ReferenceRewards:
    """Read the rewards of the reference's responses, which may have been made for other responses to the same prompts.

    Args:
        path: Table of `ReferenceRewardTable`.
        groups_path: Table of `AnnotatedGroupTable`, with which a model is trained.
        reference_dir: The reference model.

    Raises:
        TrainingError: The rewards are those of another model's responses, of another reward or of other transforms.
    """
    annotated = next(read_rows(groups_path, ["reward_model", "reward_transforms"]))
    found = next(read_rows(path, ["key"]))
    if found["key"] != reference_rewards_key(reference_dir, annotated):
        raise TrainingError(
            f"the rewards in {path} belong to another reference model, another reward or other transforms than "
            f"{groups_path}: run the pipeline `alignment` from its node `sample_reference` again"
        )
    return ReferenceRewards(path)

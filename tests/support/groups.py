"""Tokenised groups and runs that the tests of training share."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
from launching import IN_PROCESS

from rao_kedro.config.specs import AlignmentSpec, ScoringSpec
from rao_kedro.config.training import KLParameters, TrainingParameters
from rao_kedro.data.arrow_schemas import REFERENCE_REWARDS
from rao_kedro.data.table_files import TableWriter
from rao_kedro.rewards.reference_rewards import prompt_digest, reference_rewards_key
from rao_kedro.workers import launch


def write_groups(path, n_groups):
    """Groups of three responses; a marker token before the end says how a response is rated.

    In a training and a held-out group, the longest response was cut: it has no end-of-turn token, which is 2.
    """
    rng = random.Random(0)
    rows = []
    for i in range(n_groups):
        finished = [True, i not in (1, n_groups - 1), True]
        responses = [[*(rng.randrange(10, 250) for _ in range(n)), mark, 2] for n, mark in ((2, 5), (4, 6), (3, 7))]
        responses = [ids if ended else ids[:-1] for ids, ended in zip(responses, finished, strict=True)]
        rows.append(
            {
                "group_id": f"g{i}",
                "split": "train" if i < n_groups * 2 // 3 else "validation",
                "messages": [{"role": "user", "content": f"question {i}"}],
                "responses": ["short", "a longer one", "in between"],
                "requirements": "[]",
                "prompt_ids": [1, *(rng.randrange(10, 250) for _ in range(4))],
                "response_ids": responses,
                "ratings": [0.0, 0.5, 1.0],
                "finished": finished,
                "rewards": [-1.0, 0.0, 1.0],
                "reward_model": "marks",
                "reward_transforms": "[]",
                "chosen": 2,
                "rejected": 0,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def parameters(**changes):
    defaults = {"learning_rate": 3e-3, "batch_size": 4, "max_tokens_per_batch": 60, "mixed_precision": "no"}
    return TrainingParameters(**(defaults | changes))


def log_of(workspace):
    rows = [json.loads(line) for line in (workspace / "training_log.jsonl").read_text().splitlines()]
    return [r for r in rows if "loss" in r], [r for r in rows if "eval_loss" in r]


def reference(tmp_path, tiny_checkpoint, groups_path, model_dir=None):
    spec = ScoringSpec(
        workspace=tmp_path / "reference",
        model_dir=model_dir or tiny_checkpoint,
        groups_path=groups_path,
        output_path=tmp_path / "reference.parquet",
        mixed_precision="no",
    )
    launch(spec, IN_PROCESS)
    return spec.output_path


def reference_rewards(path, tiny_checkpoint, groups_path, of_group=lambda i: [-2.0, -0.5, 0.5, 2.0]):
    """Rewards of four responses of the reference to each prompt, or those that a function of the row returns."""
    groups = pq.read_table(groups_path, columns=["group_id", "prompt_ids", "reward_model", "reward_transforms"])
    with TableWriter(path, REFERENCE_REWARDS) as writer:
        for i, group in enumerate(groups.to_pylist()):
            row = {"group_id": group["group_id"], "prompt": prompt_digest(group["prompt_ids"])}
            row["key"] = reference_rewards_key(tiny_checkpoint, group)
            writer.write(row | {"raw_rewards": of_group(i), "rewards": of_group(i)})
    return path


def alignment_spec(tmp_path, tiny_checkpoint, groups_path, name="rao", training=None, **objective):
    return AlignmentSpec(
        workspace=tmp_path / name,
        model_dir=tiny_checkpoint,
        groups_path=groups_path,
        reference_path=tmp_path / "reference.parquet",
        reference_rewards_path=sampled if (sampled := tmp_path / "reference_rewards.parquet").exists() else None,
        objective=name,
        objective_parameters=objective,
        kl=KLParameters(max_new_tokens=6),
        training=training or parameters(epochs=8, keep="last"),
    )

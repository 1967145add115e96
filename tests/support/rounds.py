"""On-policy rounds that the tests of training share: responses that a policy sampled, and held-out ones of the data."""

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from groups import reference, write_groups

from rao_kedro.config.specs import AlignmentSpec, PPORoundSpec
from rao_kedro.config.training import KLParameters
from rao_kedro.data.token_tables import read_groups
from rao_kedro.generation.rollouts import Sampler
from rao_kedro.models.loading import load_causal_lm


def low_ids(ids):
    """A reward that a policy learns fast: the share of token ids below 128."""
    return sum(token < 128 for token in ids) / len(ids)


def sample_round(path, model_dir, samples=4, seed=0, n_groups=12, max_tokens=6):
    """Write a table whose training rows `model_dir` sampled; return its path.

    The tiny model hardly ever ends a turn: every second response ends with the token 2 instead of its last one.
    """
    rows = pq.read_table(write_groups(path, n_groups)).to_pylist()
    groups = read_groups(path, "train", [])
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        sampled = Sampler(model_dir, max_tokens, samples).sample(load_causal_lm(model_dir).eval(), groups)
    of_group = {
        group.group_id: [[*ids[:-1], 2] if i % 2 else [*ids] for i, ids in enumerate(group.response_ids)]
        for group in sampled
    }
    for row in rows:
        if row["split"] == "train":
            ids = of_group[row["group_id"]]
            rewards = [low_ids(of) for of in ids]
            row |= {
                "response_ids": ids,
                "responses": [f"sample {i}" for i in range(len(ids))],
                "finished": [of[-1] == 2 for of in ids],
                "rewards": rewards,
                "ratings": rewards,
                "chosen": rewards.index(max(rewards)),
                "rejected": len(rewards) - 1 - rewards[::-1].index(min(rewards)),
            }
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def ppo_round_spec(workspace, groups_path, model_dir, value_dir, training, **changes):
    objective = {"beta": 0.05} | changes.pop("objective_parameters", {})
    common = {"workspace": workspace, "groups_path": groups_path, "model_dir": model_dir, "training": training}
    return PPORoundSpec(**common, value_dir=value_dir, objective_parameters=objective, **changes)


def rloo_round_spec(workspace, groups_path, model_dir, training, reference_dir=None, **objective):
    workspace.mkdir(parents=True, exist_ok=True)
    known = reference(workspace, model_dir, groups_path, reference_dir)
    return AlignmentSpec(
        workspace=workspace / "rloo",
        groups_path=groups_path,
        model_dir=model_dir,
        reference_dir=reference_dir,
        reference_path=known,
        objective="rloo",
        objective_parameters=objective,
        kl=KLParameters(prompts=2, max_new_tokens=4),
        training=training,
    )

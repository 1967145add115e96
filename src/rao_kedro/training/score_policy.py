"""Scores one policy for the evaluation: log-probs and rewards of what it wrote, log-probs of held-out responses.

One worker for all of it, since a start costs more than a forward pass over a small model.
"""

from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from rao_kedro.models.loading import load_causal_lm, load_reward_model
from rao_kedro.models.logprobs import PackedLogProbs
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.models.reward_head import PackedRewards
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import PolicyScoringSpec
from rao_kedro.training.reference_cache import refuse_stale, scoring_key
from rao_kedro.training.scoring import group_logps, group_rewards, write_table
from rao_kedro.training.tables import read_groups, read_reference


def main(spec_path: str) -> None:
    """Write `prompt_id, logps, reference_logps, rewards` per prompt, and the table of `HeldOutLogps`."""
    spec = PolicyScoringSpec.model_validate_json(Path(spec_path).read_text())
    written = read_generations(spec.generations_path)
    held_out = read_groups(spec.groups_path, "test", "rewards")
    key = scoring_key(spec.reference_dir, spec.groups_path, spec.mixed_precision, spec.t0_length)
    refuse_stale(spec.reference_path, key)
    known = read_reference(spec.reference_path, spec.groups_path)
    policy = PackedLogProbs(load_causal_lm(spec.model_dir))
    logps = group_logps(policy, written, spec)
    if spec.reference_dir == spec.model_dir:
        on_held_out, reference = known, logps
    else:
        on_held_out = {name: (p, r) for name, (p, r) in group_logps(policy, held_out, spec).items()}
        del policy
        reference = group_logps(PackedLogProbs(load_causal_lm(spec.reference_dir)), written, spec)
    rewards = group_rewards(PackedRewards(load_reward_model(spec.reward_model_dir)), written, spec)
    write_table(
        [
            {
                "group_id": g.group_id,
                "rewards": g.rewards,
                "logps": on_held_out[g.group_id][1],
                "reference_logps": known[g.group_id][1],
            }
            for g in held_out
        ],
        spec.held_out_path,
    )
    write_table(
        [
            {
                "prompt_id": g.group_id,
                "logps": logps[g.group_id].responses,
                "reference_logps": reference[g.group_id].responses,
                "rewards": rewards[g.group_id],
            }
            for g in written
        ],
        spec.output_path,
    )


def read_generations(path: Path) -> list[TokenizedGroup]:
    """Read generations as groups: one per prompt, its samples as responses in their order."""
    rows = pq.read_table(path, columns=["prompt_id", "prompt_ids", "response_ids"]).to_pylist()
    samples = [(prompt_id, list(same)) for prompt_id, same in groupby(rows, key=lambda row: row["prompt_id"])]
    return [
        TokenizedGroup(prompt_id, same[0]["prompt_ids"], [row["response_ids"] for row in same])
        for prompt_id, same in samples
    ]


if __name__ == "__main__":
    worker_main(main)

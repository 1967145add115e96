"""Rewards of every response from a trained reward model."""

from pathlib import Path

from rao_kedro.models.loading import load_reward_model
from rao_kedro.models.reward_head import PackedRewards
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import ScoringSpec
from rao_kedro.training.scoring import group_rewards, read_all_groups, write_table


def main(spec_path: str) -> None:
    """Write `group_id, rewards`, responses in the order of the groups table."""
    spec = ScoringSpec.model_validate_json(Path(spec_path).read_text())
    rewards = group_rewards(PackedRewards(load_reward_model(spec.model_dir)), read_all_groups(spec), spec)
    write_table([{"group_id": name, "rewards": values} for name, values in rewards.items()], spec.output_path)


if __name__ == "__main__":
    worker_main(main)

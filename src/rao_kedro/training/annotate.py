"""Rewards of every response from a trained reward model."""

from pathlib import Path

from rao_kedro.models.loading import load_reward_model
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.models.reward_head import PackedRewards
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import ScoringSpec
from rao_kedro.training.reference_cache import scoring_key
from rao_kedro.training.scoring import group_rewards, write_in_shards


def main(spec_path: str) -> None:
    """Write `group_id, rewards`, responses in the order of the groups table."""
    spec = ScoringSpec.model_validate_json(Path(spec_path).read_text())
    key = scoring_key(spec.model_dir, spec.groups_path, spec.mixed_precision, spec.t0_length)
    model = PackedRewards(load_reward_model(spec.model_dir))

    def score(groups: list[TokenizedGroup]) -> list[dict]:
        return [{"group_id": n, "rewards": values} for n, values in group_rewards(model, groups, spec).items()]

    write_in_shards(spec, key, score)


if __name__ == "__main__":
    worker_main(main)

"""The worker that scores every response of prompt groups with a reward."""

from collections.abc import Sequence
from pathlib import Path

from rao_kedro.config.specs import AnnotationSpec
from rao_kedro.data.arrow_schemas import REWARDS
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.token_tables import PromptGroups
from rao_kedro.distributed import process_state
from rao_kedro.identity import combined_hash, file_hash
from rao_kedro.rewards.registry import build_reward
from rao_kedro.scoring.forward import write_in_shards
from rao_kedro.workers import worker_main


def main(spec_path: str) -> None:
    """Write `group_id, rewards, truncated, failures, reward_model`, responses in the order of the table of groups."""
    spec = AnnotationSpec.model_validate_json(Path(spec_path).read_text())
    reward = build_reward(spec.reward)
    identity = reward.identity

    def score(groups: Sequence[PromptGroup]) -> list[dict]:
        return [
            {"group_id": group.group_id, **vars(scores), "reward_model": identity}
            for group, scores in zip(groups, reward.annotate(groups), strict=True)
        ]

    groups = PromptGroups(spec.groups_path)
    if process_state().is_main_process:
        reward.forecast(groups)
    write_in_shards(spec, combined_hash(identity, file_hash(spec.groups_path)), REWARDS, groups, score)


if __name__ == "__main__":
    worker_main(main)

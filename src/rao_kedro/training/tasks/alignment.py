"""The worker that aligns a policy: the task of its objective, and what to say before it starts."""

import logging
from pathlib import Path

from rao_kedro.config.specs import AlignmentSpec
from rao_kedro.distributed import process_state
from rao_kedro.training.loop import train
from rao_kedro.training.tasks.dro import DROAlignment
from rao_kedro.training.tasks.kto import KTOAlignment
from rao_kedro.training.tasks.offline import OfflineAlignment, reward_remark, target_remark
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)

# Objectives that need more than log-probs of a pack's own responses.
TASKS: dict[str, type[OfflineAlignment]] = {"dro": DROAlignment, "kto": KTOAlignment}


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = AlignmentSpec.model_validate_json(Path(spec_path).read_text())
    task = TASKS.get(spec.objective, OfflineAlignment)(spec)
    responses = "the chosen and the rejected response" if task.objective.pairwise else "all responses"
    if spec.responses_per_prompt and not task.objective.pairwise:
        responses = f"at most {spec.responses_per_prompt} responses"
    if spec.pairs == "all":
        responses = f"every pair of {responses}"
    is_main = process_state().is_main_process  # it says things once, however many processes there are
    if is_main:
        logger.info("%s: %s of %d prompt groups", spec.objective, responses, len(task.train_groups))
    on_targets = target_remark(task.objective, task.train_groups)
    on_rewards = reward_remark(spec, task.objective, task.train_groups)
    for remark in filter(None, (on_targets, on_rewards) if is_main else ()):
        logger.warning("%s", remark)
    train(task, spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

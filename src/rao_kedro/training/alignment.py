"""The worker that aligns a policy: the task of its objective, and what to say before it starts."""

from pathlib import Path

from rao_kedro.processes import WARNING_PREFIX, worker_main
from rao_kedro.schemas.specs import AlignmentSpec
from rao_kedro.training.distributed import process_state
from rao_kedro.training.dro import DROAlignment
from rao_kedro.training.kto import KTOAlignment
from rao_kedro.training.loop import train
from rao_kedro.training.offline import OfflineAlignment, reward_remark, target_remark

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
    say = process_state().print  # once, however many processes there are
    say(f"{spec.objective}: {responses} of {len(task.train_groups)} prompt groups", flush=True)
    on_targets = target_remark(task.objective, task.train_groups)
    on_rewards = reward_remark(spec, task.objective, task.train_groups)
    for remark in filter(None, (on_targets, on_rewards)):
        say(f"{WARNING_PREFIX}{remark}", flush=True)
    train(task, spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

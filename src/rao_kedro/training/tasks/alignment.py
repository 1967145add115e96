"""The worker that aligns a policy offline: chooses the task by what the objective needs.

The tasks are in `offline.py`, `dro.py` and `kto.py`.
"""

import logging
from pathlib import Path

from rao_kedro.config.specs import AlignmentSpec
from rao_kedro.distributed import process_state
from rao_kedro.objectives import get_requirements
from rao_kedro.training.loop import train
from rao_kedro.training.tasks.dro import DROAlignment
from rao_kedro.training.tasks.kto import KTOAlignment
from rao_kedro.training.tasks.offline import OfflineAlignment
from rao_kedro.workers import worker_main

logger = logging.getLogger(__name__)


def make_task(spec: AlignmentSpec) -> OfflineAlignment:
    """Return the task that gives the spec's objective what it needs."""
    requirements = get_requirements(spec.objective)
    if requirements.value_network:
        return DROAlignment(spec)
    if requirements.mismatched_pairs:
        return KTOAlignment(spec)
    return OfflineAlignment(spec)


def main(spec_path: str) -> None:
    """Train as `spec_path` says."""
    spec = AlignmentSpec.model_validate_json(Path(spec_path).read_text())
    task = make_task(spec)
    if process_state().is_main_process:
        logger.info("%s", task.describe())
        for remark in task.remark_on_rewards():
            logger.warning("%s", remark)
    train(task, spec.training, spec.workspace)


if __name__ == "__main__":
    worker_main(main)

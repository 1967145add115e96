"""A fixture that several tests of training share."""

import pytest

from rao_kedro.training.progress import Progress


@pytest.fixture
def killed_at_step_4(monkeypatch):
    """Kills the first run at step 4, and lists the steps of all runs."""
    report, steps = Progress.report, []

    def killed(self, step, **kwargs):
        steps.append(step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        report(self, step, **kwargs)

    monkeypatch.setattr(Progress, "report", killed)
    return steps

"""Offline alignment with mismatched pairs: their mean log-ratio over all groups of a step is the baseline of KTO."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from rao_kedro.config.specs import AlignmentSpec
from rao_kedro.errors import TrainingError
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.objectives import LogProbBatch
from rao_kedro.scoring.forward import ForwardPass, score_logps
from rao_kedro.training.task import Outputs
from rao_kedro.training.tasks.offline import OfflineAlignment


class KTOAlignment(OfflineAlignment):
    """Pairs every prompt with a response of the next group. Their reference log-probs are computed before step 0."""

    def __init__(self, spec: AlignmentSpec) -> None:
        """Read the groups and pair them."""
        super().__init__(spec)
        pairs = [*mismatch_pairs(self.train_groups), *mismatch_pairs(self.eval_groups)]
        self.mismatched = {group.group_id: group for group in pairs}
        training = spec.training
        self.forward_pass = ForwardPass(training.mixed_precision, training.max_tokens_per_batch, spec.t0_length)
        self.mismatched_reference: dict[str, float] = {}
        self.policy_logps, self.reference_logps = torch.empty(0), torch.empty(0)

    def prepare(self, module: nn.Module) -> None:
        """Compute the reference log-probs of mismatched pairs."""
        super().prepare(module)
        self.mismatched_reference = self._logps(self.reference_module(module), list(self.mismatched.values()))

    def prepare_groups(
        self, module: nn.Module, groups: Sequence[TokenizedGroup], progress: float
    ) -> Sequence[TokenizedGroup]:
        """Compute the policy's log-probs of the step's mismatched pairs."""
        policy = self._logps(module, [self.mismatched[group.group_id] for group in groups])
        self.policy_logps = torch.tensor(list(policy.values()))
        self.reference_logps = torch.tensor([self.mismatched_reference[name] for name in policy])
        return super().prepare_groups(module, groups, progress)

    def batch(self, outputs: Outputs, groups: Sequence[TokenizedGroup]) -> LogProbBatch:
        """Return the log-probs and rewards of groups, with the mismatched pairs of the whole step."""
        device = outputs[0].device
        return replace(
            super().batch(outputs, groups),
            mismatched_policy=self.policy_logps.to(device),
            mismatched_reference=self.reference_logps.to(device),
        )

    def _logps(self, module: nn.Module, groups: Sequence[TokenizedGroup]) -> dict[str, float]:
        return {name: logps.responses[0] for name, logps in score_logps(module, groups, self.forward_pass).items()}


def mismatch_pairs(groups: Sequence[TokenizedGroup]) -> list[TokenizedGroup]:
    """Return each prompt with a response of the next group, alternately the chosen and the rejected one.

    Raises:
        TrainingError: There is only one group, so no response of another prompt.
    """
    if len(groups) == 1:
        raise TrainingError("this objective needs responses to other prompts, but a split has only one prompt group")
    following = [*groups[1:], *groups[:1]]
    pairs = enumerate(zip(groups, following, strict=True))
    one_each = ((group, other.response(i % 2)) for i, (group, other) in pairs)
    return [group.with_responses(other.response_ids, other.learned) for group, other in one_each]

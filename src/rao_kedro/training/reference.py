"""Reference log-probs of every response and prompt, computed once per model, data and precision (design D3)."""

from pathlib import Path

import torch

from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import PackedLogProbs
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import ScoringSpec
from rao_kedro.training.scoring import forward_packs, read_all_groups, write_table


def main(spec_path: str) -> None:
    """Write `group_id, prompt_logp, response_logps` (nats), responses in the order of the groups table."""
    spec = ScoringSpec.model_validate_json(Path(spec_path).read_text())
    module = PackedLogProbs(load_causal_lm(spec.model_dir))
    rows = []
    for pack, batch in forward_packs(module, read_all_groups(spec), spec):
        logps = module(batch, prompt_gradient="detached")
        assert isinstance(logps.prompts, torch.Tensor)
        for group, prompt, responses in zip(pack, logps.prompts.tolist(), logps.responses.tolist(), strict=True):
            rows.append(
                {
                    "group_id": group.group_id,
                    "prompt_logp": prompt,
                    "response_logps": responses[: len(group.response_ids)],
                }
            )
    write_table(rows, spec.output_path)


if __name__ == "__main__":
    worker_main(main)

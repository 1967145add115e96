"""Reference log-probs of every response and prompt, computed once per model, data and precision (design D3)."""

from pathlib import Path

from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import PackedLogProbs
from rao_kedro.processes import worker_main
from rao_kedro.schemas.specs import ScoringSpec
from rao_kedro.training.scoring import group_logps, read_all_groups, write_table


def main(spec_path: str) -> None:
    """Write `group_id, prompt_logp, response_logps` (nats), responses in the order of the groups table."""
    spec = ScoringSpec.model_validate_json(Path(spec_path).read_text())
    logps = group_logps(PackedLogProbs(load_causal_lm(spec.model_dir)), read_all_groups(spec), spec)
    rows = [{"group_id": name, "prompt_logp": p, "response_logps": r} for name, (p, r) in logps.items()]
    write_table(rows, spec.output_path)


if __name__ == "__main__":
    worker_main(main)

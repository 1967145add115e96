"""Reference log-probs of every response and prompt: `python -m rao_kedro.scoring.reference spec.json`."""

from collections.abc import Sequence
from pathlib import Path

from rao_kedro.config.specs import ScoringSpec
from rao_kedro.data.arrow_schemas import REFERENCE_LOGPROBS
from rao_kedro.data.token_tables import read_groups_in_table_order
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.scoring.forward import score_logps, write_in_shards
from rao_kedro.scoring.placement import place_for_scoring
from rao_kedro.scoring.reference_cache import scoring_key
from rao_kedro.workers import worker_main


def main(spec_path: str) -> None:
    """Write a row per group: `group_id, prompt_logp, response_logps` (nats, in the order of the groups table), `key`.

    Args:
        spec_path: JSON of a `ScoringSpec`.
    """
    spec = ScoringSpec.model_validate_json(Path(spec_path).read_text())
    key = scoring_key(spec.model_dir, spec.groups_path, spec.mixed_precision, spec.t0_length)
    dtype = weights_dtype(spec.mixed_precision)
    model = place_for_scoring(lambda: LogProbModel(load_causal_lm(spec.model_dir, dtype)), spec.model_dir, dtype)

    def score(groups: Sequence[TokenizedGroup]) -> list[dict]:
        logps = score_logps(model, groups, spec)
        return [{"group_id": n, "prompt_logp": p, "response_logps": r, "key": key} for n, (p, r) in logps.items()]

    write_in_shards(spec, key, REFERENCE_LOGPROBS, read_groups_in_table_order(spec.groups_path), score)


if __name__ == "__main__":
    worker_main(main)

"""Worker that scores one policy: log-probs and rewards of its responses, and log-probs of the groups of split `test`.

It is one worker, since a start takes longer than a forward pass of a small model.
"""

from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from rao_kedro.config.specs import PolicyScoringSpec
from rao_kedro.data.prompt_group import PromptGroup
from rao_kedro.data.token_tables import ReferenceLogps, read_groups, read_reference
from rao_kedro.models.bf16_weights import weights_dtype
from rao_kedro.models.chat_format import end_of_turn_ids, open_tokenizer
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.rewards.registry import build_reward
from rao_kedro.scoring.forward import score_logps, write_table
from rao_kedro.scoring.placement import place_for_scoring
from rao_kedro.scoring.reference_cache import refuse_stale, scoring_key
from rao_kedro.workers import worker_main


def main(spec_path: str) -> None:
    """Write `prompt_id, logps, reference_logps, rewards, failures` per prompt, and a `HeldOutLogProbTable`."""
    spec = PolicyScoringSpec.model_validate_json(Path(spec_path).read_text())
    stop_ids = end_of_turn_ids(spec.model_dir, open_tokenizer(spec.model_dir))
    written, texts = read_generations(spec.generations_path, stop_ids)
    reported = read_groups(spec.groups_path, "test", ["rewards"])
    key = scoring_key(spec.reference_dir, spec.groups_path, spec.mixed_precision, spec.t0_length)
    refuse_stale(spec.reference_path, key)
    known = read_reference(spec.reference_path, spec.groups_path)
    dtype = weights_dtype(spec.mixed_precision)
    policy = place_for_scoring(lambda: LogProbModel(load_causal_lm(spec.model_dir, dtype)), spec.model_dir, dtype)
    logps = score_logps(policy, written, spec)
    on_held_out: ReferenceLogps | Mapping[str, tuple[float, list[float]]]
    if spec.reference_dir == spec.model_dir:
        on_held_out, reference = known, logps
    else:
        on_held_out = score_logps(policy, reported, spec)
        del policy
        directory = spec.reference_dir
        model = place_for_scoring(lambda: LogProbModel(load_causal_lm(directory, dtype)), directory, dtype)
        reference = score_logps(model, written, spec)
        del model
    rewards = build_reward(spec.reward).annotate(texts)
    write_table(
        [
            {
                "group_id": g.group_id,
                "rewards": g.rewards,
                "logps": on_held_out[g.group_id][1],
                "reference_logps": known[g.group_id][1],
            }
            for g in reported
        ],
        spec.held_out_path,
    )
    write_table(
        [
            {
                "prompt_id": g.group_id,
                "logps": logps[g.group_id].responses,
                "reference_logps": reference[g.group_id].responses,
                "rewards": of_prompt.rewards,
                "failures": of_prompt.failures,
            }
            for g, of_prompt in zip(written, rewards, strict=True)
        ],
        spec.output_path,
    )


def read_generations(path: Path, stop_ids: Collection[int]) -> tuple[list[TokenizedGroup], list[PromptGroup]]:
    """Read generations as one group per prompt, as tokens and as text; its samples are the responses in their order.

    Args:
        path: Table of `GenerationTable`.
        stop_ids: End-of-turn tokens; a response that ends with one is finished.
    """
    tokens, texts = [], []
    for prompt_id, rows in groupby(pq.read_table(path).to_pylist(), key=lambda row: row["prompt_id"]):
        same = list(rows)
        tokens.append(TokenizedGroup(prompt_id, same[0]["prompt_ids"], [row["response_ids"] for row in same]))
        texts.append(
            PromptGroup(
                group_id=prompt_id,
                messages=same[0]["messages"],
                responses=[row["response"] for row in same],
                requirements=same[0]["requirements"],
                finished=[row["response_ids"][-1] in stop_ids for row in same],
            )
        )
    return tokens, texts


if __name__ == "__main__":
    worker_main(main)

"""Reference log-probs and rewards: shards that survive a kill, and keys that a stale table cannot have."""

import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from groups import alignment_spec, parameters, reference, write_groups
from launching import IN_PROCESS

from rao_kedro.config.alignment import ReferenceParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AnnotationSpec, ScoringSpec
from rao_kedro.errors import ModelError, TrainingError
from rao_kedro.identity import combined_hash, content_hash
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model, save_checkpoint
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.rewards.bradley_terry import BradleyTerry
from rao_kedro.scoring import forward as scoring
from rao_kedro.scoring.reference_cache import cached_reference_logprobs, scoring_key
from rao_kedro.shards import Shards
from rao_kedro.workers import launch


@pytest.fixture
def groups_path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 12)


def scoring_spec(workspace, tiny_checkpoint, groups_path):
    return ScoringSpec(
        workspace=workspace,
        model_dir=tiny_checkpoint,
        groups_path=groups_path,
        output_path=workspace / "scores.parquet",
        mixed_precision="no",
        groups_per_shard=5,
    )


def annotation_spec(workspace, tiny_reward_model, groups_path):
    return AnnotationSpec(
        workspace=workspace,
        groups_path=groups_path,
        reward=RewardParameters(parameters={"model_dir": str(tiny_reward_model), "mixed_precision": "no"}),
        output_path=workspace / "scores.parquet",
        groups_per_shard=5,
    )


@pytest.mark.parametrize("task", ["reference", "annotate"])
def test_a_killed_scoring_goes_on_from_its_last_shard_to_the_same_bytes(
    task, tmp_path, tiny_checkpoint, tiny_reward_model, groups_path, monkeypatch, caplog
):
    make, model = (annotation_spec, tiny_reward_model) if task == "annotate" else (scoring_spec, tiny_checkpoint)
    whole, killed = (make(tmp_path / name, model, groups_path) for name in ("whole", "killed"))
    launch(whole, IN_PROCESS)
    write, written = Shards.write, []

    def dies(shards, key, table):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(len(table))
        write(shards, key, table)

    monkeypatch.setattr(Shards, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        launch(killed, IN_PROCESS)
    monkeypatch.setattr(Shards, "write", lambda *of: (written.append(len(of[2])), write(*of)))
    caplog.set_level("INFO", "rao_kedro")
    launch(killed, IN_PROCESS)
    assert written == [5, 5, 2] and "goes on: 10 of 12 groups are scored already" in caplog.messages
    assert killed.output_path.read_bytes() == whole.output_path.read_bytes()
    assert not (killed.workspace / "shards").exists()


def test_groups_longer_than_a_pack_have_the_scores_of_whole_groups(tmp_path, tiny_checkpoint, groups_path):
    tables = []
    for room in (100, 12):
        spec = scoring_spec(tmp_path / str(room), tiny_checkpoint, groups_path)
        launch(spec.model_copy(update={"max_tokens_per_batch": room}), IN_PROCESS)
        tables.append(pd.read_parquet(spec.output_path))
    pd.testing.assert_frame_equal(*tables, rtol=1e-5, atol=1e-5)


def killed_after_the_first_shard(spec, monkeypatch):
    """Annotate, and die when the second shard is scored."""
    score, scored = BradleyTerry.annotate, []

    def dies(reward, groups):
        if scored:
            raise KeyboardInterrupt
        scored.append(groups)
        return score(reward, groups)

    with monkeypatch.context() as patch:
        patch.setattr(BradleyTerry, "annotate", dies)
        with pytest.raises(KeyboardInterrupt):
            launch(spec, IN_PROCESS)


def test_a_killed_scoring_that_goes_on_with_other_shards_has_every_group_once(
    tmp_path, tiny_reward_model, groups_path, monkeypatch
):
    spec = annotation_spec(tmp_path / "work", tiny_reward_model, groups_path)
    killed_after_the_first_shard(spec, monkeypatch)
    launch(spec.model_copy(update={"groups_per_shard": 3}), IN_PROCESS)
    names = pd.read_parquet(spec.output_path)["group_id"].tolist()
    assert names == pq.read_table(groups_path)["group_id"].to_pylist()


def test_a_worker_killed_while_it_annotates_leaves_what_the_next_one_finishes_to_the_same_bytes(
    tmp_path, tiny_reward_model, groups_path
):
    """SIGKILL as soon as the first shard is there, in a process of its own."""
    whole, killed = (annotation_spec(tmp_path / name, tiny_reward_model, groups_path) for name in ("whole", "killed"))
    killed = killed.model_copy(update={"groups_per_shard": 1})
    whole = whole.model_copy(update={"groups_per_shard": 1})
    launch(whole, IN_PROCESS)
    killed.workspace.mkdir()
    (killed.workspace / "spec.json").write_text(killed.model_dump_json())
    command = [sys.executable, "-m", "rao_kedro.rewards.worker", str(killed.workspace / "spec.json")]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = [worker.stdout.readline() for _ in range(2)]
    assert ['"done": 0, "total": 12' in said[0], '"done": 1, "total": 12' in said[1]] == [True, True]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not killed.output_path.exists()
    launch(killed, IN_PROCESS)
    assert killed.output_path.read_bytes() == whole.output_path.read_bytes()


def test_the_key_is_of_content_not_of_how_a_file_was_written(tmp_path, tiny_checkpoint, groups_path):
    rows = pq.read_table(groups_path)
    small = rows.set_column(
        rows.schema.get_field_index("prompt_ids"), "prompt_ids", rows["prompt_ids"].cast(pa.list_(pa.int32()))
    )
    pq.write_table(small, tmp_path / "other.parquet", row_group_size=3)
    keys = {scoring_key(tiny_checkpoint, path, "no", 1) for path in (groups_path, tmp_path / "other.parquet")}
    assert len(keys) == 1
    assert scoring_key(tiny_checkpoint, groups_path, "bf16", 1) not in keys
    assert scoring_key(tiny_checkpoint, groups_path, "no", 2) not in keys


def test_the_key_is_that_of_whole_columns_of_int64(tiny_checkpoint, groups_path):
    """Keys of caches that exist were computed that way; now they are computed in batches of int32."""
    rows = pq.read_table(groups_path).to_pylist()

    def whole(numbers):
        return np.array(numbers, dtype=np.int64).tobytes()

    responses = [ids for row in rows for ids in row["response_ids"]]
    columns = [
        [row["group_id"] for row in rows],
        [whole([len(row["prompt_ids"]) for row in rows]), whole([t for row in rows for t in row["prompt_ids"]])],
        [
            whole([len(row["response_ids"]) for row in rows]),
            whole([*map(len, responses)]),
            whole([token for ids in responses for token in ids]),
        ],
    ]
    hashes = [combined_hash(*parts) for parts in columns]
    expected = combined_hash(content_hash(tiny_checkpoint), *hashes, "no", "1", version("rao_kedro"))
    assert scoring_key(tiny_checkpoint, groups_path, "no", 1) == expected


def test_shards_without_a_value_of_a_column_join_those_with_one(tmp_path, groups_path):
    spec = scoring_spec(tmp_path / "work", tmp_path, groups_path)
    failures = [None] * 5 + ["refused"] * 7
    rows = [{"group_id": f"g{i}", "failures": [failure]} for i, failure in enumerate(failures)]
    schema = pa.schema({"group_id": pa.string(), "failures": pa.list_(pa.string())})
    scoring.write_in_shards(spec, "key", schema, rows, lambda of: [*of])
    assert pq.read_table(spec.output_path).to_pylist() == rows
    assert pq.read_schema(spec.output_path) == schema


@pytest.mark.parametrize("changed", ["weights", "tokens", "precision", "t_0"])
def test_a_stale_reference_is_refused(tmp_path, tiny_checkpoint, groups_path, changed):
    reference(tmp_path, tiny_checkpoint, groups_path)
    changes = {}
    match changed:
        case "weights":
            model = load_causal_lm(tiny_checkpoint)
            with torch.no_grad():
                model.get_input_embeddings().weight[5, 0] += 1e-4  # far below what the check at step 0 can see
            save_checkpoint(model, load_tokenizer(tiny_checkpoint), tmp_path / "other")
            changes = {"model_dir": tmp_path / "other"}
        case "tokens":
            rows = pq.read_table(groups_path).to_pylist()
            rows[3]["response_ids"][1][0] += 1
            pq.write_table(pa.Table.from_pylist(rows), groups_path)
        case "precision":
            changes = {"training": parameters(mixed_precision="bf16")}
        case "t_0":
            changes = {"t0_length": 2}
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, log_z0=0.0).model_copy(update=changes)
    with pytest.raises(TrainingError, match="belong to other weights, tokens, t_0 or another precision"):
        launch(spec, IN_PROCESS)


def group(n, *responses):
    return TokenizedGroup(f"g{n}", [1, 10 + n], responses)


@pytest.mark.parametrize(
    ("groups", "rewards", "said"),
    [
        ([group(0, [5], [6])], [[0.5, 0.5]], "2 different responses are all 0.5"),
        ([group(0, [5]), group(1, [5])], [[0.0], [0.0]], "2 different responses are all 0"),
        ([group(0, [5], [6]), group(1, [5], [6])], [[1.0, 1.0], [2.0, 2.0]], "differ in none of 2 groups"),
        ([group(0, [5], [5])], [[0.5, 0.5]], None),
        ([group(0, [5])], [[0.5]], None),
        ([group(0, [5], [6]), group(1, [5], [6])], [[1.0, 1.0], [2.0, 2.5]], None),
        ([group(0, [5]), group(1, [5])], [[1.0], [2.0]], None),
        ([], [], None),
    ],
)
def test_rewards_that_do_not_depend_on_the_responses_are_refused(groups, rewards, said):
    with pytest.raises(ModelError, match=said) if said else nullcontext():
        scoring.refuse_constant_rewards(groups, rewards)


def test_a_reward_model_that_has_learnt_nothing_annotates_no_table(
    tmp_path, tiny_checkpoint, tiny_reward_model, groups_path
):
    model = load_reward_model(tiny_reward_model)
    model.score.weight.data.zero_()
    save_checkpoint(model, load_tokenizer(tiny_reward_model), tmp_path / "flat")
    spec = annotation_spec(tmp_path / "work", tmp_path / "flat", groups_path)
    with pytest.raises(ModelError, match="15 different responses are all 0: it has learnt nothing"):
        launch(spec, IN_PROCESS)
    assert not spec.output_path.exists()
    same = {"policy_dir": str(tiny_checkpoint), "reference_dir": str(tiny_checkpoint), "mixed_precision": "no"}
    spec = spec.model_copy(update={"reward": RewardParameters(name="implicit", parameters=same)})
    with pytest.raises(ModelError, match="15 different responses are all 0"):
        launch(spec, IN_PROCESS)


def test_cached_reference_log_probs_that_are_not_what_was_written_are_computed_again(tmp_path, tiny_checkpoint):
    groups = write_groups(tmp_path / "groups.parquet", 4)
    how = ReferenceParameters(mixed_precision="no")
    ask = partial(cached_reference_logprobs, tiny_checkpoint, groups, how, 1, IN_PROCESS, tmp_path / "cache")
    right = pd.read_parquet(kept := ask())
    right.assign(prompt_logp=-1.0).to_parquet(kept)
    pd.testing.assert_frame_equal(pd.read_parquet(ask()), right)

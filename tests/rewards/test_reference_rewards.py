"""Rewards of what the reference wrote: the table, what is left out, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from groups import alignment_spec, log_of, parameters, reference, reference_rewards, write_groups
from launching import IN_PROCESS, workers_in

from rao_kedro.config.alignment import ReferenceRewardParameters
from rao_kedro.config.generation import GenerationParameters, SamplingParameters
from rao_kedro.config.rewards import RewardParameters
from rao_kedro.data.arrow_schemas import ANNOTATED_GROUPS, REWARDS
from rao_kedro.data.rounds import write_prompts
from rao_kedro.data.tables import LogZ0ReportTable, QuarantineTable, ReferenceRewardTable
from rao_kedro.data.token_tables import PromptGroups, read_groups
from rao_kedro.errors import DataError, ParameterError, TrainingError
from rao_kedro.generation import worker
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.objectives.log_z0 import estimate_log_z0
from rao_kedro.pipelines.alignment import nodes
from rao_kedro.rewards.annotation import join_rewards
from rao_kedro.rewards.log_z0_report import compare_log_z0
from rao_kedro.rewards.reference_rewards import (
    TRAINED,
    join_reference_rewards,
    prompt_digest,
    read_reference_rewards,
    write_sampled_groups,
)
from rao_kedro.rewards.transforms import apply_transforms
from rao_kedro.training.tasks.offline import OfflineAlignment
from rao_kedro.workers import launch

SPLITS = ["train", "train", "validation", "test", "train"]
TRANSFORMS = [{"name": "clip", "low": -1.0, "high": 3.0}, {"name": "standardise", "mean": 1.0, "std": 2.0}]


def annotated(path, chat, transforms=TRANSFORMS):
    """Groups of two responses to prompts as the tiny model reads them."""
    rows = []
    for i, split in enumerate(SPLITS):
        messages = [{"role": "user", "content": f"the fox {i}"}]
        row = dict.fromkeys(ANNOTATED_GROUPS.names)
        row |= {"group_id": f"g{i}", "split": split, "messages": messages, "responses": ["a dog", "a"]}
        row |= {
            "requirements": "[]",
            "prompt_ids": prompt_token_ids(chat, messages),
            "response_ids": [[5, 6, 2], [7, 2]],
        }
        row |= {"ratings": [1.0, 0.0], "finished": [True, True], "chosen": 0, "rejected": 1}
        row |= {"raw_rewards": [3.0, -1.0], "rewards": [1.0, -1.0], "truncated": [False] * 2}
        rows.append(row | {"reward_model": "counted", "reward_transforms": json.dumps(transforms)})
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATED_GROUPS), path)
    return path


def generated(path, annotated_groups, n=3):
    """Three responses to each training prompt; the last one was cut."""
    rows = [
        {
            "prompt_id": group["group_id"],
            "sample": j,
            "messages": group["messages"],
            "requirements": "[]",
            "response": f"response {j}",
            "n_tokens": 3 + j,
            "finish_reason": "stop",
            "response_ids": [5, 6, 7 if j == n - 1 else 2],
            "prompt_ids": group["prompt_ids"],
        }
        for group in pq.read_table(annotated_groups).to_pylist()
        if group["split"] != "test"
        for j in range(n)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=worker.SCHEMA), path)
    return path


def scored(path, failed=(), reward_model="counted"):
    """Rewards 0, 2 and 9 of each prompt's responses; `failed` names (row, response) without a score."""
    rows = [
        {
            "group_id": name,
            "rewards": [float("nan") if (row, j) in failed else reward for j, reward in enumerate((0.0, 2.0, 9.0))],
            "truncated": [False] * 3,
            "failures": ["too long" if (row, j) in failed else "" for j in range(3)],
            "reward_model": reward_model,
        }
        for row, name in enumerate(("g0", "g1", "g2", "g4"))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=REWARDS), path)
    return path


@pytest.fixture
def chat(tiny_checkpoint):
    return load_chat_format(tiny_checkpoint)


@pytest.fixture
def join(tmp_path, tiny_checkpoint, chat):
    groups = annotated(tmp_path / "annotated.parquet", chat)
    samples = generated(tmp_path / "generations.parquet", groups)

    def joined(groups=groups, samples=samples, **how):
        return join_reference_rewards(
            groups, samples, scored(tmp_path / "scores.parquet", **how), tiny_checkpoint, tmp_path
        )

    return joined


def test_prompts_are_those_of_training_and_validation_groups(tmp_path, chat):
    write_prompts(annotated(tmp_path / "annotated.parquet", chat), TRAINED, tmp_path / "prompts.parquet")
    assert [prompt["prompt_id"] for prompt in worker.read_prompts(tmp_path / "prompts.parquet")] == [
        "g0",
        "g1",
        "g2",
        "g4",
    ]


def test_samples_become_groups_that_rewards_read(tmp_path, chat):
    samples = generated(tmp_path / "generations.parquet", annotated(tmp_path / "annotated.parquet", chat))
    write_sampled_groups(samples, tmp_path / "groups.parquet", [2])
    groups = PromptGroups(tmp_path / "groups.parquet")
    assert groups.ids == ["g0", "g1", "g2", "g4"]
    assert groups[1].responses == ["response 0", "response 1", "response 2"] and groups[1].ratings is None
    assert groups[1].finished == [True, True, False] and groups[1].messages[0]["content"] == "the fox 1"


def test_rewards_are_on_the_scale_of_the_annotated_ones(join, tmp_path, tiny_checkpoint):
    """Clipped to [-1, 3] and standardised by (r - 1) / 2: 0, 2 and 9 become -0.5, 0.5 and 1."""
    path, unscored = join()
    table = ReferenceRewardTable.validate(pd.read_parquet(path))
    assert list(table["group_id"]) == ["g0", "g1", "g2", "g4"] and table["key"].nunique() == 1
    assert [[*of] for of in table["rewards"]] == [[-0.5, 0.5, 1.0]] * 4
    assert [[*of] for of in table["raw_rewards"]] == [[0.0, 2.0, 9.0]] * 4
    assert not len(QuarantineTable.validate(pd.read_parquet(unscored)))
    found = read_reference_rewards(path, tmp_path / "annotated.parquet", tiny_checkpoint)
    for group in read_groups(tmp_path / "annotated.parquet", "train"):
        assert found.of(group) == [-0.5, 0.5, 1.0]
    assert found.empty == 0


def test_transforms_of_new_rewards_are_those_of_the_annotated_table(tmp_path):
    """The transforms that `join_rewards` records give its own rewards when they are applied to its raw ones."""
    rng = np.random.default_rng(0)
    rows = [
        dict.fromkeys(ANNOTATED_GROUPS.names)
        | {"group_id": f"g{i}", "split": "train", "messages": [], "responses": ["a", "b"], "requirements": "[]"}
        | {"prompt_ids": [1], "response_ids": [[5], [6]], "ratings": [1.0, 0.0], "finished": [True, True]}
        | {"chosen": 0, "rejected": 1}
        for i in range(30)
    ]
    scores = [
        {"group_id": row["group_id"], "rewards": (rng.standard_normal(2) * (50 if i == 3 else 1)).tolist()}
        | {"truncated": [False] * 2, "failures": [""] * 2, "reward_model": "x"}
        for i, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATED_GROUPS), tmp_path / "groups.parquet")
    pq.write_table(pa.Table.from_pylist(scores, schema=REWARDS), tmp_path / "scores.parquet")
    table = pd.read_parquet(
        join_rewards(
            tmp_path / "groups.parquet",
            tmp_path / "scores.parquet",
            tmp_path,
            "standardise",
            "best_vs_worst",
            0,
            clip=3.0,
        )[0]
    )
    transforms = json.loads(table["reward_transforms"].iloc[0])
    assert [step["name"] for step in transforms] == ["clip", "standardise"]
    found = apply_transforms(transforms, list(table["raw_rewards"]), [[1, 1]] * 30)
    assert [of.tolist() for of in found] == [of.tolist() for of in table["rewards"]]
    with pytest.raises(DataError, match="unknown transform warp"):
        apply_transforms([{"name": "warp"}], [[1.0]], [[1]])


def test_responses_without_a_score_are_left_out_and_named(join, tmp_path, tiny_checkpoint):
    path, unscored = join(failed={(0, 1), (3, 0), (3, 1), (3, 2)})
    rows = pd.read_parquet(path).set_index("group_id")["rewards"]
    assert [*rows["g0"]] == [-0.5, 1.0] and len(rows["g1"]) == 3 and len(rows["g4"]) == 0
    named = QuarantineTable.validate(pd.read_parquet(unscored))
    assert list(named["source"]) == ["g0", "g4", "g4", "g4"] and set(named["reason"]) == {"unscored_response"}
    assert read_reference_rewards(path, tmp_path / "annotated.parquet", tiny_checkpoint).empty == 1
    with pytest.raises(DataError, match=r"no response of the reference got a reward, for example: too long"):
        join(failed={(row, j) for row in range(4) for j in range(3)})


def test_tables_that_do_not_belong_together_are_refused(join, tmp_path, chat, tiny_checkpoint):
    with pytest.raises(
        DataError, match=r"the reward has changed since .*it was counted, and is another.*annotate_resp"
    ):
        join(reward_model="another")
    groups = pq.read_table(tmp_path / "annotated.parquet").to_pylist()
    others = [row | {"group_id": f"other {i}"} for i, row in enumerate(groups)]
    pq.write_table(pa.Table.from_pylist(others, schema=ANNOTATED_GROUPS), tmp_path / "others.parquet")
    with pytest.raises(DataError, match="group other 0 has no responses of the reference in its place"):
        join(groups=tmp_path / "others.parquet")
    pq.write_table(pa.Table.from_pylist(groups[:2], schema=ANNOTATED_GROUPS), tmp_path / "fewer.parquet")
    with pytest.raises(DataError, match="other prompts than those of the groups"):
        join(groups=tmp_path / "fewer.parquet")
    today = [row | {"prompt_ids": [1, *row["prompt_ids"]]} for row in groups]
    pq.write_table(pa.Table.from_pylist(today, schema=ANNOTATED_GROUPS), tmp_path / "today.parquet")
    with pytest.raises(DataError, match="chat template writes other prompt tokens"):
        join(groups=tmp_path / "today.parquet")


def test_a_stale_table_is_refused_and_one_for_other_responses_is_not(
    join, tmp_path, chat, tiny_checkpoint, tiny_reward_model
):
    path, _ = join()
    for changed in (annotated(tmp_path / "plain.parquet", chat, []), None):
        groups, model = (changed, tiny_checkpoint) if changed else (tmp_path / "annotated.parquet", tiny_reward_model)
        with pytest.raises(
            TrainingError, match="belong to another reference model, another reward or other transforms"
        ):
            read_reference_rewards(path, groups, model)
    rows = [
        row | {"response_ids": [[9, 2], [8, 2]]} for row in pq.read_table(tmp_path / "annotated.parquet").to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATED_GROUPS), tmp_path / "round.parquet")
    found = read_reference_rewards(path, tmp_path / "round.parquet", tiny_checkpoint)
    group = next(iter(read_groups(tmp_path / "round.parquet", "train")))
    assert found.of(group) == [-0.5, 0.5, 1.0]
    with pytest.raises(TrainingError, match="has no rewards for the prompt of group g0: run the pipeline"):
        found.of(replace(group, prompt_ids=[1, 2, 3]))
    assert prompt_digest([1, 2]) == prompt_digest(np.array([1, 2], dtype=np.int32)) != prompt_digest([2, 1])


def test_settings_that_change_the_distribution_are_refused():
    def refused(**how):
        with pytest.raises(ValueError, match="generation") as error:
            ReferenceRewardParameters(generation=GenerationParameters(**how))
        return str(error.value)

    assert "sampling.temperature 0.7, sampling.top_p 0.9 would sample from another distribution" in refused(
        sampling=SamplingParameters(temperature=0.7, top_p=0.9)
    )
    assert "engine.quantization fp8" in refused(engine={"quantization": "fp8"})
    assert "chat_template_kwargs" in refused(chat_template_kwargs={"enable_thinking": False})


def test_the_nodes_make_the_table_once_and_a_second_run_makes_nothing_again(
    tmp_path, tiny_checkpoint, chat, monkeypatch
):
    groups = annotated(tmp_path / "annotated.parquet", chat, [])
    reward = RewardParameters(name="rules", parameters={"function": "letters:share_of_letters"})
    rows = [row | {"reward_model": None} for row in pq.read_table(groups).to_pylist()]
    from rao_kedro.rewards.registry import build_reward

    rows = [row | {"reward_model": build_reward(reward).identity} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATED_GROUPS), groups)
    sampling = SamplingParameters(n=3, max_tokens=6)
    how = GenerationParameters(backend="transformers", dtype="float32", max_model_len=64, sampling=sampling)
    workers = workers_in(tmp_path / "work")

    def make():
        samples = nodes.sample_reference(tiny_checkpoint, groups, how, workers)
        kept = tmp_path / "reference_generations.parquet"
        samples.replace(kept)  # the catalog moves it
        arguments = (tiny_checkpoint, tiny_checkpoint, groups, kept, reward, "no", workers)
        return pd.read_parquet(kept), pd.read_parquet(nodes.reward_reference(*arguments)[0])

    samples, table = make()
    assert len(samples) == 12 and list(samples.groupby("prompt_id", sort=False).size()) == [3] * 4
    assert [len(of) for of in table["rewards"]] == [3] * 4
    launched = []
    monkeypatch.setattr(worker, "_generate_shards", lambda *_: launched.append("sampled"))
    again = make()
    assert launched == []
    pd.testing.assert_frame_equal(again[0], samples)
    pd.testing.assert_frame_equal(again[1], table)


def test_the_report_has_each_choice_with_its_error_and_the_targets_that_it_implies(join, tmp_path):
    """beta 0.5, rewards (1, -1): auto 0, estimated from (-0.5, 0.5, 1); three training groups of five."""
    path, _ = join()
    table = pd.read_parquet(tmp_path / "annotated.parquet")
    found = compare_log_z0(table, path, {"beta": 0.5, "log_z0": "estimated"})
    LogZ0ReportTable.validate(found)
    rows = found.set_index("log_z0")
    expected = estimate_log_z0([[-0.5, 0.5, 1.0]] * 3, 0.5)
    assert list(rows.index) == ["auto", "estimated", "paper"] and list(rows["n_prompts"]) == [3, 3, 0]
    assert rows["value"].tolist() == pytest.approx([0.0, expected.value, 50.0])
    assert rows.loc["estimated", "jackknife_bias"] == pytest.approx(expected.bias) and expected.bias < 0
    assert rows["mean_target_log_ratio"].tolist() == pytest.approx([0.0, -expected.value, -50.0])
    assert rows["chosen_target_is_up"].tolist() == [1.0, float(expected.value < 2), 0.0]
    assert list(rows["n_samples"]) == [6, 9, 0]
    own = compare_log_z0(table, path, {"beta": 0.5, "log_z0": 3.0}).set_index("log_z0")
    assert own.loc["parameter", "value"] == 3.0 and own.loc["auto", "value"] == 0.0


@pytest.fixture
def trained(tmp_path, tiny_checkpoint):
    """A function that returns the spec of a training with reference rewards, where a prompt of each split has none."""
    groups = write_groups(tmp_path / "groups.parquet", 12)
    reference(tmp_path, tiny_checkpoint, groups)
    without = {2, 9}
    path = tmp_path / "reference_rewards.parquet"
    reference_rewards(path, tiny_checkpoint, groups, lambda i: [] if i in without else [0.1 * i, 0.5, 1.0][: 1 + i % 3])

    def spec(name, **objective):
        return alignment_spec(tmp_path, tiny_checkpoint, groups, name, parameters(epochs=1), **objective)

    return spec


def test_qrpo_leaves_out_groups_without_reference_rewards_and_says_so(trained, caplog):
    task = OfflineAlignment(trained("qrpo"))
    assert (len(task.train_groups), len(task.eval_groups)) == (7, 3)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(":")[0] for text in said] == ["1 of 8 groups are left out", "1 of 4 groups are left out"]
    task.train_groups[0].rewards[0] = 1e9  # its quantile is 1
    assert task.remark_on_rewards() == []
    spec = trained("qrpo")
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    assert steps and evaluations and abs(steps[0]["log_ratio_chosen"]) < 1e-3


def test_rao_estimates_log_z0_from_the_training_prompts_that_have_samples(trained, caplog):
    caplog.set_level("INFO")
    spec = trained("rao", beta=0.5, log_z0="estimated")
    launch(spec, IN_PROCESS)
    sampled = [[0.1 * i, 0.5, 1.0][: 1 + i % 3] for i in range(8) if i != 2]
    expected = estimate_log_z0(sampled, 0.5).value
    steps, _ = log_of(spec.workspace)
    assert steps[0]["log_z"] == pytest.approx(expected, abs=1e-4)
    assert len(OfflineAlignment(spec).train_groups) == 8
    assert any(f"{expected:.3f} nats" in record.getMessage() for record in caplog.records)


def test_an_objective_that_needs_them_is_refused_without_them(trained):
    for name, how in (("qrpo", {}), ("rao", {"log_z0": "estimated"})):
        spec = trained(name, **how).model_copy(update={"reference_rewards_path": None})
        with pytest.raises(ParameterError, match="needs reference rewards: set reference_rewards_path"):
            OfflineAlignment(spec)

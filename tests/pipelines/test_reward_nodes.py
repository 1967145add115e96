"""The nodes that train reward models: which part of the data they train on, evaluate on, and report."""

import pandas as pd
import pytest
from data_tables import frame, write_preferences
from launching import workers_in

from rao_kedro.config.data_engineering import DataParameters
from rao_kedro.config.training import TrainingParameters
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.pipelines.reward_modeling import nodes
from rao_kedro.pipelines.studies.reward_models import nodes as study_nodes

TRAINING = {"learning_rate": 1e-3}
LIMITS = {"max_prompt_tokens": 64, "max_response_tokens": 64, "evaluation_prompts": 1}
SOURCES = {"train": {"path": "x"}, "test": {"path": "x"}}
DATA = DataParameters(source="preferences", preferences=SOURCES, **LIMITS)


def tokenized():
    row = {"ratings": [1.0, 0.0], "response_ids": [[5, 5], [5]], "chosen": 0, "rejected": 1, "prompt_ids": [1]}
    row |= {"messages": [], "responses": ["a", "b"], "requirements": "[]", "finished": [True, True]}
    row |= {"earlier_turns": None, "learned": None}
    parts = ["train", "train", "validation", "test"]
    return pd.DataFrame([{"group_id": f"{part}{i}", "split": part, **row} for i, part in enumerate(parts)])


@pytest.fixture
def select(tmp_path):
    """Training groups of a table, by size and seed."""

    def selected(table, size, seed):
        return frame(study_nodes.select_training_groups(write(table, tmp_path), size, workers_in(tmp_path), seed=seed))

    return selected


def write(table, directory):
    table.to_parquet(directory / "tokenized.parquet")
    return directory / "tokenized.parquet"


def test_the_study_trains_with_the_validation_groups_and_measures_on_the_test_groups(select, tmp_path):
    trained = select(tokenized(), None, seed=3)
    assert sorted(trained["split"]) == ["train", "train", "validation"]
    assert list(trained["rewards"]) == list(trained["ratings"])
    tested = study_nodes.select_test_groups(write(tokenized(), tmp_path), workers_in(tmp_path))
    assert list(frame(tested)["group_id"]) == ["test3"]


def test_a_size_draws_as_many_training_groups_another_draw_with_another_seed(select):
    many = pd.concat([tokenized().assign(group_id=lambda t, i=i: t["group_id"] + f"_{i}") for i in range(20)])
    first, again, other = (select(many, 7, seed=seed) for seed in (0, 0, 1))
    train = many[many["split"] == "train"]
    assert list(first["group_id"])[:7] == list(train.sample(7, random_state=0)["group_id"])
    assert (first["split"] == "train").sum() == 7 and (first["split"] == "validation").sum() == 20
    assert list(first["group_id"]) == list(again["group_id"]) != list(other["group_id"])


def test_a_reward_model_of_another_family_trains_on_the_parts_that_the_policy_has(
    tmp_path, tiny_checkpoint, monkeypatch
):
    """Readers know one held-out part; the fourth group did not fit the policy."""
    other = build_tiny_checkpoint(tmp_path / "other")
    groups = pd.DataFrame(
        [
            {
                "group_id": name,
                "split": split,
                "messages": [{"role": "user", "content": f"the dog {name}"}],
                "responses": ["a", "b"],
                "ratings": [1.0, 0.0],
                "finished": [True, True],
                "source": "file:1",
                "requirements": "[]",
            }
            for name, split in (("a", "train"), ("b", "test"), ("c", "test"), ("d", "test"))
        ]
    )
    parts = pd.DataFrame({"group_id": ["a", "b", "c"], "split": ["train", "validation", "test"]})
    parts.to_parquet(tmp_path / "tokenized.parquet")
    specs = []
    monkeypatch.setattr(nodes, "launch", lambda spec, *_, **__: specs.append(spec))
    monkeypatch.setattr(nodes.pd, "read_json", lambda *_, **__: None)
    paths = (tiny_checkpoint, tiny_checkpoint, tmp_path / "tokenized.parquet")
    how = {"start": str(other), "centering": 0.01, "margin": 0.0, "training": TrainingParameters(**TRAINING)}
    how |= DATA.model_dump(include={"max_prompt_tokens", "max_response_tokens", "pairing", "seed", "num_proc"})
    groups = write_preferences(groups, tmp_path / "preference_groups.parquet")
    nodes.train_reward_model(*paths, groups, **how, workers=workers_in(tmp_path))
    found = pd.read_parquet(specs[0].groups_path)
    assert dict(zip(found["group_id"], found["split"], strict=True)) == {"a": "train", "b": "validation", "c": "test"}


def test_the_report_of_rewards_warns_once_of_an_outlier_and_of_nothing_else(caplog, tmp_path):
    def report(*far):
        rows = [
            {
                "group_id": f"g{i}",
                "split": "train" if i else "test",
                "rewards": [1.0 + i % 3, 0.0],
                "ratings": [1.0, 0.0],
                "response_ids": [[5, 5], [5]],
                "chosen": 0,
                "rejected": 1,
                "truncated": [False, False],
                "reward_transforms": "[]",
            }
            for i in range(36)
        ]
        for i in far:
            rows[i]["rewards"][0] = 1e6
        table = pd.DataFrame(rows)
        table.assign(raw_rewards=table["rewards"]).to_parquet(tmp_path / "annotated.parquet")
        caplog.clear()
        rao = {"beta": 0.5, "log_z0": "auto"}
        found, _ = nodes.report_rewards(tmp_path / "annotated.parquet", rao, None)
        return found.set_index(["split", "metric"])["value"], [record.getMessage() for record in caplog.records]

    plain, said = report()
    assert said == [] and plain["train", "outliers"] == 0
    found, said = report(7)
    assert len(said) == 1 and "1 of 70 training rewards" in said[0] and "g7 (1e+06)" in said[0]
    solved = found["train", "suggested_log_z0"]
    assert f"auto solves to {solved:.6g} nats" in said[0] and solved > 1e4
    assert found["train", "outliers"] == 1 / 70 and found["test", "outliers"] == 0

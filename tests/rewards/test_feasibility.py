"""Which prompts have targets that can be met, by hand, and as RAO itself reports it in training."""

import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rao_kedro.errors import TrainingError
from rao_kedro.objectives import LogProbBatch, make_objective
from rao_kedro.pipelines.alignment.nodes import report_feasibility
from rao_kedro.rewards.feasibility import target_feasibility


def group(name, split, rewards, logps):
    k = len(rewards)
    about = {"group_id": name, "split": split, "chosen": k - 1, "rejected": 0, "prompt_ids": [1]}
    return about | {"response_ids": [[5]] * k, "rewards": rewards, "logps": logps}


@pytest.fixture
def paths(tmp_path):
    """Two training prompts, of which the first is infeasible with beta 1 and log_z0 1, and a held-out one."""
    rows = [
        group("a", "train", [-9.0, 0.0, 3.0], [-1.0, -2.0, -1.5]),  # e^-11 + e^-3 + e^0.5 > 1
        group("b", "train", [0.0, 1.0], [-3.0, -4.0]),
        group("c", "test", [0.0, 1.0], [-1.0, -1.0]),  # e^-2 + e^-1 < 1
    ]
    groups = [{name: value for name, value in row.items() if name != "logps"} for row in rows]
    known = [{"group_id": r["group_id"], "prompt_logp": -1.0, "response_logps": r["logps"], "key": "k"} for r in rows]
    pq.write_table(pa.Table.from_pylist(groups), tmp_path / "groups.parquet")
    pq.write_table(pa.Table.from_pylist(known), tmp_path / "reference.parquet")
    return tmp_path / "groups.parquet", tmp_path / "reference.parquet"


def test_the_share_of_infeasible_prompts_by_hand(paths):
    found = target_feasibility(*paths, {"beta": 1.0, "log_z0": 1.0}).set_index("split")
    assert list(found.index) == ["train", "test"]
    train, test = found.loc["train"], found.loc["test"]
    assert (train["infeasible"], train["n"]) == (0.5, 2) and 0 < train["low"] < 0.5 < train["high"] < 1
    masses = [math.log(math.exp(-11) + math.exp(-3) + math.exp(0.5)), math.log(math.exp(-4) + math.exp(-4))]
    assert train["log_target_mass"] == pytest.approx(sum(masses) / 2)
    assert train["feasible_log_z0"] == pytest.approx(1 + masses[0])
    assert (test["infeasible"], test["n"]) == (0.0, 1)
    raised = target_feasibility(*paths, {"beta": 1.0, "log_z0": train["feasible_log_z0"] + 1e-9})
    assert raised["infeasible"].tolist() == [0.0, 0.0]


def test_it_is_what_rao_reports_before_the_first_update(paths):
    """Group a has three responses, b two; the columns are those of training, the chosen one first."""
    reference = torch.tensor([[-1.5, -1.0, -2.0], [-4.0, -3.0, 0.0]], dtype=torch.float64)
    batch = LogProbBatch(
        policy=reference,
        reference=reference,
        rewards=torch.tensor([[3.0, -9.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64),
        mask=torch.tensor([[True, True, True], [True, True, False]]),
    )
    for parameters in ({"beta": 0.7, "log_z0": "auto", "margin": 2.0}, {"beta": 2.0, "log_z0": -0.5}):
        objective = make_objective("rao", prompt_term="none", **parameters)
        train = target_feasibility(*paths, parameters).set_index("split").loc["train"]
        metrics = objective(batch).metrics
        assert train["infeasible"] == metrics["infeasible"].item()
        assert train["log_target_mass"] == pytest.approx(metrics["log_target_mass"].item(), abs=1e-9)
        assert train["log_z0"] == pytest.approx(metrics["log_z"].item())


def test_only_the_responses_that_the_run_sees_count(paths):
    two = target_feasibility(*paths, {"beta": 1.0, "log_z0": 1.0}, responses=2).set_index("split").loc["train"]
    masses = [math.log(math.exp(-11) + math.exp(0.5)), math.log(math.exp(-4) + math.exp(-4))]
    assert two["log_target_mass"] == pytest.approx(sum(masses) / 2)
    solved = target_feasibility(*paths, {"beta": 1.0, "log_z0": "auto"}, responses=2).set_index("split").loc["train"]
    assert solved["log_z0"] == pytest.approx((-3.0 + 0.5) / 2)


def test_the_node_warns_of_infeasible_training_prompts_and_names_a_log_z0(paths, caplog):
    report_feasibility(*paths, {"beta": 1.0, "log_z0": 1.0}, None)
    [said] = caplog.messages
    assert "targets of 50.0 % of 2 training prompts" in said and "log_z0 >= 1.53 makes all of them feasible" in said
    caplog.clear()
    report_feasibility(*paths, {"beta": 1.0, "log_z0": 9.0}, None)
    assert not caplog.messages


def test_reference_log_probs_of_other_groups_are_refused(paths):
    rows = pq.read_table(paths[1]).to_pylist()
    pq.write_table(pa.Table.from_pylist(rows[::-1]), paths[1])
    with pytest.raises(TrainingError, match=r"group a of .* has no matching row"):
        target_feasibility(*paths, {})

"""How many responses a method sees, and on which pairs of them it trains, through the real loop on a tiny model."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from groups import alignment_spec, log_of, parameters, reference, reference_rewards, write_groups
from launching import IN_PROCESS
from pydantic import ValidationError

from rao_kedro.config.alignment import MethodParameters
from rao_kedro.data.token_tables import read_groups
from rao_kedro.errors import ParameterError
from rao_kedro.training.remarks import likelihood_remark
from rao_kedro.training.tasks.offline import OfflineAlignment
from rao_kedro.workers import launch

TRAINING = parameters(epochs=1, learning_rate=3e-4, keep="last", max_tokens_per_batch=200)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_checkpoint):
    """Groups of two to five responses, rated and rewarded alike."""
    directory, rng = tmp_path_factory.mktemp("seen"), random.Random(1)
    rows = pq.read_table(write_groups(directory / "groups.parquet", 12)).to_pylist()
    for i, row in enumerate(rows):
        k = 2 + i % 4
        row["response_ids"] = [[*(rng.randrange(10, 250) for _ in range(3)), 2] for _ in range(k)]
        row["responses"] = [f"response {j}" for j in range(k)]
        row["ratings"] = [float(j) for j in range(k)]
        row["rewards"] = [float(j * j) for j in range(k)]
        row["chosen"], row["rejected"] = k - 1, 0
    pq.write_table(pa.Table.from_pylist(rows), directory / "groups.parquet")
    reference(directory, tiny_checkpoint, directory / "groups.parquet")
    reference_rewards(directory / "reference_rewards.parquet", tiny_checkpoint, directory / "groups.parquet")
    return directory


def spec_of(workspace, tiny_checkpoint, name, **changes):
    objective = changes.pop("objective", {})
    spec = alignment_spec(workspace, tiny_checkpoint, workspace / "groups.parquet", name, TRAINING, **objective)
    return spec.model_copy(update={"workspace": workspace / f"{name}-{len(list(workspace.iterdir()))}", **changes})


def test_a_limit_keeps_the_chosen_the_rejected_and_then_the_others_in_their_order(workspace):
    whole = {g.group_id: g for g in read_groups(workspace / "groups.parquet", "train", ["rewards"])}
    for group in read_groups(workspace / "groups.parquet", "train", ["rewards"], responses=3):
        kept = whole[group.group_id]
        assert [*map(list, group.response_ids)] == [*map(list, kept.response_ids[:3])]
        assert group.rewards == kept.rewards[:3]
        k = len(kept.rewards)
        assert group.rewards == [float((k - 1) ** 2), 0.0, 1.0][:k]


@pytest.mark.parametrize(
    "name", ["rao", "dro", "rpo_distill", "kimi_k15", "dgro", "rpo_partition", "qrpo", "rebel", "raft"]
)
def test_a_method_that_reads_all_responses_can_be_given_two(name, workspace, tiny_checkpoint):
    seen = {}
    for limit in (None, 2):
        spec = spec_of(workspace, tiny_checkpoint, name, responses_per_prompt=limit)
        launch(spec, IN_PROCESS)
        steps, evaluations = log_of(spec.workspace)
        assert abs(steps[0]["log_ratio_chosen"]) < 1e-3 and evaluations
        seen[limit] = {step["responses_per_prompt"] for step in steps}
    assert seen == {None: {3.5}, 2: {2.0}}  # of 8 training groups two have 2, two 3, two 4 and two 5 responses


@pytest.mark.parametrize("reduction", ["prompt_mean", "flat"])
def test_log_z0_is_solved_from_the_responses_that_the_run_sees(reduction, workspace, tiny_checkpoint):
    """Rewards of a group are 0, 1, 4, 9, 16 as far as it goes; two responses are the highest and 0."""
    objective = {"beta": 0.5, "log_z0": "auto", "reduction": reduction}
    found = {
        limit: OfflineAlignment(
            spec_of(workspace, tiny_checkpoint, "rao", responses_per_prompt=limit, objective=objective)
        ).objective.log_z0
        for limit in (None, 2)
    }
    sums = [1, 5, 14, 30]
    mean = sum(sums) / 14 if reduction == "flat" else sum(s / k for s, k in zip(sums, (2, 3, 4, 5), strict=True)) / 4
    assert found == pytest.approx({None: mean / 0.5, 2: (1 + 4 + 9 + 16) / 8 / 0.5})


@pytest.mark.parametrize("name", ["dpo", "ipo", "simpo", "cal_dpo", "slic_hf", "orpo", "dpop", "dpo_shift", "kto"])
def test_a_pairwise_method_can_take_all_pairs(name, workspace, tiny_checkpoint):
    one = spec_of(workspace, tiny_checkpoint, name)
    every = spec_of(workspace, tiny_checkpoint, name, pairs="all")
    two = spec_of(workspace, tiny_checkpoint, name, pairs="all", responses_per_prompt=2)
    steps = {}
    for how, spec in {"one": one, "all": every, "all of two": two}.items():
        launch(spec, IN_PROCESS)
        steps[how], evaluations = log_of(spec.workspace)
        assert evaluations[-1]["eval_loss"] > -1e9
    assert abs(steps["all"][0]["log_ratio_chosen"]) < 1e-3
    assert [s["loss"] for s in steps["all of two"]] == pytest.approx([s["loss"] for s in steps["one"]], rel=1e-4)
    assert steps["all"][0]["responses_per_prompt"] == 3.5 and steps["one"][0]["responses_per_prompt"] == 2.0
    assert steps["all"][-1]["loss"] != pytest.approx(steps["one"][-1]["loss"], rel=1e-6)
    if name == "dpo":
        assert steps["all"][0]["loss"] == pytest.approx(0.693147, abs=1e-4)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"objective": "rao", "pairs": "all"}, "objective rao: pairs: all is for the pairwise methods"),
        ({"objective": "rpo_distill", "pairs": "all"}, "objective rpo_distill: pairs: all"),
        ({"objective": "dpo", "responses_per_prompt": 1}, "greater than or equal to 2"),
        (
            {"objective": "ppo", "responses_per_prompt": 2, "rollout": {"max_new_tokens": 4}},
            "it samples its own responses",
        ),
        ({"objective": "ppo", "pairs": "all", "rollout": {"max_new_tokens": 4}}, "objective ppo: pairs: all"),
    ],
)
def test_what_means_nothing_is_refused(method, said):
    with pytest.raises(ValidationError, match=said):
        MethodParameters(training=TRAINING, **method)


def test_a_worker_refuses_all_pairs_of_a_pointwise_objective(workspace, tiny_checkpoint):
    with pytest.raises(ParameterError, match="objective rao: pairs: all is for the pairwise methods"):
        OfflineAlignment(spec_of(workspace, tiny_checkpoint, "rao", pairs="all"))


@pytest.mark.parametrize(
    ("name", "objective", "rao", "bound"),
    [
        ("rpo_distill", {"beta": 0.5}, "RAO with beta 0.5", "15.00"),
        ("ipo", {"tau": 0.25}, "RAO with beta 0.25", "30.00"),
        ("simpo", {"beta": 2.0}, "RAO", "7.50 / beta"),
    ],
)
def test_a_warning_names_the_methods_own_beta(name, objective, rao, bound, workspace, tiny_checkpoint):
    """Chosen rewards are 1, 4, 9 and 16 by turns: 7.5 on average."""
    task = OfflineAlignment(spec_of(workspace, tiny_checkpoint, name, objective=objective))
    remark = task.remark({"log_ratio_chosen": -1.0, "chosen_likelihood_fell": 0.9})
    assert remark is not None and f"{rao} raises the mean target" in remark and f"log_z0 <= {bound} nats" in remark


def test_a_warning_about_rao_names_no_log_z0_that_it_already_has(workspace, tiny_checkpoint):
    task = OfflineAlignment(spec_of(workspace, tiny_checkpoint, "rao", objective={"beta": 0.5}))
    fell = {"log_ratio_chosen": -1.0, "chosen_likelihood_fell": 0.9}
    assert "log_z0 <= 15.00 nats" in (task.remark(fell | {"log_z": 15.1}) or "")
    assert (task.remark(fell | {"log_z": 14.9}) or "").endswith("a larger margin raises it further.")


def test_a_run_on_rewards_with_an_outlier_says_so_unless_it_does_not_read_their_size(
    workspace, tiny_checkpoint, caplog
):
    rows = pq.read_table(workspace / "groups.parquet").to_pylist()
    rows[3]["rewards"][1] = 1e6
    pq.write_table(pa.Table.from_pylist(rows), path := workspace / "outlier.parquet")
    task = OfflineAlignment(spec_of(workspace, tiny_checkpoint, "rao", objective={"log_z0": "auto"}))
    assert task.remark_on_rewards() == []
    spec = spec_of(workspace, tiny_checkpoint, "rao", groups_path=path, objective={"log_z0": "auto"})
    caplog.clear()
    launch(spec, IN_PROCESS)
    said = [line for line in caplog.messages if line.startswith("1 of 28")]
    assert len(said) == 1 and "g3 (1e+06)" in said[0] and "log_z0: auto solves to" in said[0]
    for name in ("dpo", "raft"):  # which read no rewards, and their order only
        task = OfflineAlignment(spec_of(workspace, tiny_checkpoint, name, groups_path=path))
        assert task.remark_on_rewards() == []


def test_the_remark_of_a_method_without_a_beta_names_none():
    assert likelihood_remark("orpo", {"log_ratio_chosen": 0.1, "chosen_likelihood_fell": 0.9}, [], None) is None

"""Every objective through the real loop on a tiny model: step 0, learning, what is reported."""

import pytest
import torch
from groups import alignment_spec, log_of, parameters, reference, reference_rewards, write_groups
from launching import IN_PROCESS

from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.models.loading import load_causal_lm, new_reward_model
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.models.value_head import ValueNetwork, pack_prompts
from rao_kedro.objectives import get_requirements, objective_names
from rao_kedro.training.tasks.kto import mismatch_pairs
from rao_kedro.workers import launch

# The loss before the first update, where h = 0, D = 0; rewards of the tests' groups are (1, -1, 0), the chosen first.
AT_STEP_0 = {
    "rao": ({"beta": 1.0, "log_z0": 0.0}, 2 / 3),
    "dpo": ({"beta": 0.5}, 0.693147),
    "ipo": ({"tau": 0.5}, 1.0),
    "rpo_distill": ({"beta": 1.0}, (4 + 1 + 1) / 3),
    "cal_dpo": ({"beta": 0.5}, 0.693147 + 2),
    "dro": ({"tau": 1.0}, 2 / 3),
    "dpop": ({"beta": 0.5}, 0.693147),
    "dpo_shift": ({"beta": 0.5, "f": 0.9, "f_end": 0.5}, 0.693147),
    "kto": ({"beta": 0.5}, 0.5),
    "kimi_k15": ({"tau": 1.0}, 2 / 3),
    "rpo_partition": ({"tau": 5.0}, None),
    "dgro": ({"regularization_weight": 1.0}, 0.0),
    "rloo": ({"beta": 0.1}, 0.0),  # as if the policy had sampled these responses
    "raft": ({}, None),
    "qrpo": ({"beta": 1.0}, (0.208675**2 + 0.041325**2 + 0.291325**2) / 3),  # q = 3/4, 1/4, 1/2; log Z = 0.541325
    "rebel": ({"eta": 1.0}, 2.0),
    "simpo": ({}, None),
    "slic_hf": ({}, None),
    "orpo": ({}, None),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_checkpoint):
    directory = tmp_path_factory.mktemp("objectives")
    groups = write_groups(directory / "groups.parquet", 12)
    reference(directory, tiny_checkpoint, groups)
    reference_rewards(directory / "reference_rewards.parquet", tiny_checkpoint, groups)
    return directory


def test_every_offline_objective_is_tried_here():
    assert set(AT_STEP_0) == set(objective_names()) - {"ppo"}


@pytest.mark.parametrize("name", AT_STEP_0)
def test_an_objective_starts_at_its_known_loss_and_learns(name, workspace, tiny_checkpoint):
    chosen, loss = AT_STEP_0[name]
    training = parameters(epochs=10, learning_rate=3e-4, eval_every_epochs=10, keep="last")
    groups = workspace / "groups.parquet"
    spec = alignment_spec(workspace, tiny_checkpoint, groups, name, training=training, **chosen)
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    if loss is not None:
        assert steps[0]["loss"] == pytest.approx(loss, abs=2e-3)
    assert abs(steps[0]["log_ratio_chosen"]) < 1e-3 and abs(steps[0]["log_ratio_rejected"]) < 1e-3
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["margin"] > steps[0]["margin"]
    wanted = {"chosen_likelihood_fell", "rejected_likelihood_fell", "reward_correlation", "logps_chosen", "accuracy"}
    if get_requirements(name).reads == "groups" and name not in ("rpo_distill", "rebel", "rloo", "raft"):
        wanted |= {"target_rmse", "target_correlation", "chosen_target_is_up", "log_target_mass", "infeasible"}
    assert wanted <= set(steps[0]) and {f"eval_{metric}" for metric in wanted} <= set(evaluations[0])
    assert abs(evaluations[-1]["eval_kl_to_reference"]) > 1e-4
    load_causal_lm(spec.workspace / "model")


def test_an_objective_without_a_reference_trains_the_same_and_still_measures_log_ratios(workspace, tiny_checkpoint):
    logs = []
    for name in ("with", "without"):
        spec = alignment_spec(workspace / name, tiny_checkpoint, workspace / "groups.parquet", "simpo", parameters())
        known = workspace / "reference.parquet" if name == "with" else None
        launch(spec.model_copy(update={"reference_path": known}), IN_PROCESS)
        logs.append(log_of(spec.workspace))
    (steps, evaluations), (steps_without, evaluations_without) = logs
    assert [step["loss"] for step in steps_without] == [step["loss"] for step in steps]
    assert "log_ratio_chosen" in steps[0] and "log_ratio_chosen" not in steps_without[0]
    for metric in ("eval_loss", "eval_log_ratio_chosen", "eval_reward_correlation"):
        measured = [evaluated[metric] for evaluated in evaluations_without]
        assert measured == pytest.approx([evaluated[metric] for evaluated in evaluations], abs=1e-4)
    assert abs(evaluations_without[-1]["eval_log_ratio_chosen"]) > 1e-3
    spec = alignment_spec(workspace / "none", tiny_checkpoint, workspace / "groups.parquet")
    with pytest.raises(ParameterError, match="objective rao needs reference log-probs"):
        launch(spec.model_copy(update={"reference_path": None}), IN_PROCESS)


@pytest.mark.parametrize("prompt_term", ["attached", "none"])
def test_rao_learns_with_every_prompt_term(prompt_term, workspace, tiny_checkpoint):
    training = parameters(epochs=2, learning_rate=1e-3, keep="last")
    spec = alignment_spec(
        workspace, tiny_checkpoint, workspace / "groups.parquet", training=training, log_z0=0.0, prompt_term=prompt_term
    )
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_kto_does_not_depend_on_how_a_step_is_cut_into_packs(tmp_path, workspace, tiny_checkpoint):
    """Its baseline z runs over all groups of a step."""
    last = []
    for max_tokens in (40, 400):
        training = parameters(epochs=3, learning_rate=1e-3, keep="last", max_tokens_per_batch=max_tokens)
        spec = alignment_spec(tmp_path, tiny_checkpoint, workspace / "groups.parquet", "kto", training=training, beta=2)
        spec = spec.model_copy(update={"reference_path": workspace / "reference.parquet"})
        launch(spec, IN_PROCESS)
        last.append(log_of(spec.workspace)[0][-1]["loss"])
    assert last[0] == pytest.approx(last[1], rel=1e-4)


def test_mismatched_pairs_are_responses_of_other_prompts_chosen_and_rejected_by_turns():
    groups = [TokenizedGroup(f"g{i}", [1, i], [[10 + i, 2], [20 + i, 2]], [1.0, 0.0]) for i in range(3)]
    assert [group.response_ids for group in mismatch_pairs(groups)] == [[[11, 2]], [[22, 2]], [[10, 2]]]
    assert [group.prompt_ids for group in mismatch_pairs(groups)] == [[1, 0], [1, 1], [1, 2]]
    with pytest.raises(TrainingError, match="only one prompt group"):
        mismatch_pairs(groups[:1])


def test_the_value_network_starts_at_its_bias_and_sees_the_prompt_only(tiny_checkpoint):
    value = ValueNetwork(new_reward_model(tiny_checkpoint), start=0.7)
    group = TokenizedGroup("a", [1, 50, 60], [[70, 2], [80, 81, 2]])
    other = TokenizedGroup("a", [1, 50, 60], [[90, 91, 92, 2]])
    torch.testing.assert_close(value(pack_prompts([group, group])), torch.tensor([0.7, 0.7]))
    torch.nn.init.normal_(value.head.model.score.weight)
    assert value(pack_prompts([group])).item() != pytest.approx(0.7)
    torch.testing.assert_close(value(pack_prompts([group])), value(pack_prompts([other])), rtol=0, atol=0)
    plain = value.head.model(input_ids=torch.tensor([[1, 50, 60]])).logits[0]
    torch.testing.assert_close(value(pack_prompts([group])), plain + 0.7, rtol=1e-5, atol=1e-5)


def test_a_run_that_lowers_the_chosen_likelihood_says_so(workspace, tiny_checkpoint, caplog):
    training = parameters(epochs=10, eval_every_epochs=10, keep="last")
    spec = alignment_spec(
        workspace, tiny_checkpoint, workspace / "groups.parquet", "rao", training=training, beta=1.0, log_z0=20.0
    )
    launch(spec, IN_PROCESS)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "log_z0 = 20 nats makes the chosen responses less likely" in said[0]
    assert "rao lowers the likelihood of the chosen responses" in said[-1] and "log_z0 <= 1.00 nats" in said[-1]

"""Every task through the real loop on the GPU, in bf16, on a model whose heads the kernel computes."""

import math

import pandas as pd
import pytest
import torch
from groups import alignment_spec, log_of, parameters, reference_rewards, write_groups
from launching import IN_PROCESS
from padded import padded_logps
from rounds import ppo_round_spec, sample_round

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import AnnotationSpec, PPOSpec, RewardTrainingSpec, ScoringSpec, TrainingSpec
from rao_kedro.config.training import LoRAParameters, RolloutParameters
from rao_kedro.data.token_tables import PromptGroups, read_groups_in_table_order
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_causal_lm, load_reward_model
from rao_kedro.workers import launch

pytestmark = pytest.mark.gpu

EPSILON = torch.finfo(torch.bfloat16).eps  # 2^-7
PRECISIONS = ["bf16", "bf16_weights"]
OBJECTIVES = {
    "rao": {"beta": 1.0, "log_z0": "auto"},
    "dpo": {"beta": 0.5},
    "ipo": {"tau": 0.5},
    "rpo_distill": {"beta": 1.0},
    "cal_dpo": {"beta": 0.5},
    "dro": {"tau": 1.0},
    "dpop": {"beta": 0.5},
    "dpo_shift": {"beta": 0.5, "f": 0.9, "f_end": 0.5},
    "kto": {"beta": 0.5},
    "kimi_k15": {"tau": 1.0},
    "rpo_partition": {"tau": 5.0},
    "dgro": {"regularization_weight": 1.0},
    "rloo": {"beta": 0.1},
    "raft": {},
    "qrpo": {"beta": 1.0},
    "rebel": {"eta": 1.0},
    "simpo": {},
    "slic_hf": {},
    "orpo": {},
}
OPTIONS = {
    "fp32": {"mixed_precision": "no"},
    "compiled": {"compile": True},
    "activation checkpointing": {"activation_checkpointing": True},
    "compiled, activation checkpointing": {"compile": True, "activation_checkpointing": True},
    "bf16 weights": {"mixed_precision": "bf16_weights"},
    "bf16 weights, compiled": {"mixed_precision": "bf16_weights", "compile": True},
    "bf16 weights, lora": {
        "mixed_precision": "bf16_weights",
        "lora": LoRAParameters(rank=4, alpha=8),
        "learning_rate": 1e-2,
    },
    "lora": {"lora": LoRAParameters(rank=4, alpha=8), "learning_rate": 1e-2},
}


def bf16(**changes):
    return parameters(**{"mixed_precision": "bf16", "epochs": 2, "learning_rate": 1e-3, "keep": "last"} | changes)


def score_reference(directory, model, groups_path, mixed_precision="bf16"):
    spec = ScoringSpec(
        workspace=directory / f"reference-{mixed_precision}",
        model_dir=model,
        groups_path=groups_path,
        output_path=directory / "reference.parquet",
        mixed_precision=mixed_precision,
    )
    launch(spec, IN_PROCESS)
    return spec.output_path


def finite_steps(spec):
    """Train, and return the log of the steps, whose numbers are finite; the model that was written can be loaded."""
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    numbers = [value for row in (*steps, *evaluations) for value in row.values() if isinstance(value, float)]
    assert steps and all(map(math.isfinite, numbers))
    assert (spec.workspace / "model/model.safetensors").exists()
    return steps


@pytest.mark.parametrize("mixed_precision", PRECISIONS)
def test_supervised_finetuning(mixed_precision, tmp_path, wide_checkpoint, groups_path):
    training = bf16(epochs=4, mixed_precision=mixed_precision)
    how = {"model_dir": wide_checkpoint, "groups_path": groups_path, "training": training}
    steps = finite_steps(TrainingSpec(workspace=tmp_path / "sft", **how))
    assert steps[-1]["loss"] < steps[0]["loss"]
    load_causal_lm(tmp_path / "sft/model")


@pytest.mark.parametrize(
    ("name", "mixed_precision"),
    [*((name, "bf16") for name in OBJECTIVES), *((name, "bf16_weights") for name in ("rao", "kto", "dro"))],
)
def test_an_objective(name, mixed_precision, tmp_path, wide_checkpoint, groups_path):
    score_reference(tmp_path, wide_checkpoint, groups_path, mixed_precision)
    reference_rewards(tmp_path / "reference_rewards.parquet", wide_checkpoint, groups_path)
    training = bf16(mixed_precision=mixed_precision)
    finite_steps(alignment_spec(tmp_path, wide_checkpoint, groups_path, name, training, **OBJECTIVES[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_of_training_starts_at_the_same_loss(name, tmp_path, wide_checkpoint, groups_path):
    """DPO starts at ln 2 exactly where policy and reference compute alike; elsewhere bf16 moves it by some 1e-2."""
    changes = OPTIONS[name]
    score_reference(tmp_path, wide_checkpoint, groups_path, changes.get("mixed_precision", "bf16"))
    steps = finite_steps(alignment_spec(tmp_path, wide_checkpoint, groups_path, "dpo", bf16(**changes), beta=0.1))
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=2e-2)


def test_a_model_whose_heads_are_too_narrow_for_the_kernel(tmp_path, tiny_checkpoint, groups_path):
    score_reference(tmp_path, tiny_checkpoint, groups_path)
    finite_steps(alignment_spec(tmp_path, tiny_checkpoint, groups_path, "dpo", bf16(), beta=0.1))


@pytest.mark.parametrize("mixed_precision", PRECISIONS)
def test_a_reward_model_learns(mixed_precision, tmp_path, wide_checkpoint):
    groups = write_groups(tmp_path / "groups.parquet", 200)
    training = bf16(epochs=3, batch_size=8, max_tokens_per_batch=200, mixed_precision=mixed_precision)
    spec = RewardTrainingSpec(
        workspace=tmp_path / "reward", model_dir=wide_checkpoint, groups_path=groups, training=training
    )
    assert finite_steps(spec)[-1]["accuracy"] > 0.7
    load_reward_model(tmp_path / "reward/model")


@pytest.mark.parametrize("mixed_precision", PRECISIONS)
def test_ppo(mixed_precision, tmp_path, tiny_checkpoint, tiny_reward_model, groups_path):
    reward = RewardParameters(parameters={"model_dir": str(tiny_reward_model), "mixed_precision": "no"})
    spec = PPOSpec(
        workspace=tmp_path / "ppo",
        model_dir=tiny_checkpoint,
        groups_path=groups_path,
        reference_path=score_reference(tmp_path, tiny_checkpoint, groups_path, mixed_precision),
        reward_model_dir=tiny_reward_model,
        objective_parameters={"beta": 0.01},
        rollout=RolloutParameters(max_new_tokens=6, samples_per_prompt=4, reward=reward),
        training=bf16(epochs=1, max_tokens_per_batch=100, mixed_precision=mixed_precision),
    )
    finite_steps(spec)


@pytest.mark.parametrize("mixed_precision", PRECISIONS)
def test_a_round_of_ppo_starts_at_a_ratio_of_about_1(mixed_precision, tmp_path, tiny_checkpoint, tiny_reward_model):
    groups = sample_round(tmp_path / "groups.parquet", tiny_checkpoint)
    training = bf16(mixed_precision=mixed_precision, max_tokens_per_batch=100)
    own = {"value_learning_rate": 3e-3, "value_max_grad_norm": 0.5}
    spec = ppo_round_spec(tmp_path / "round", groups, tiny_checkpoint, tiny_reward_model, training, **own)
    assert finite_steps(spec)[0]["approximate_kl"] < 1e-3
    load_reward_model(spec.value_network_dir)


@pytest.mark.parametrize("mixed_precision", ["no", *PRECISIONS])
def test_reference_log_probs_are_those_of_a_cpu(mixed_precision, tmp_path, wide_checkpoint, groups_path):
    path = score_reference(tmp_path, wide_checkpoint, groups_path, mixed_precision)
    model, groups = load_causal_lm(wide_checkpoint), read_groups_in_table_order(groups_path)
    with torch.no_grad():
        expected = [padded_logps(model, [group]).responses[0].tolist() for group in groups]
    tolerance = {"abs": 1e-4} if mixed_precision == "no" else {"rel": 2 * EPSILON}
    for found, of_group in zip(pd.read_parquet(path)["response_logps"], expected, strict=True):
        assert [*found] == pytest.approx(of_group, **tolerance)


@pytest.mark.parametrize("mixed_precision", ["no", *PRECISIONS])
def test_rewards_are_those_of_a_cpu(mixed_precision, tmp_path, tiny_reward_model, groups_path):
    how = {"model_dir": str(tiny_reward_model), "mixed_precision": mixed_precision}
    spec = AnnotationSpec(
        workspace=tmp_path / "rewards",
        groups_path=groups_path,
        reward=RewardParameters(parameters=how),
        output_path=tmp_path / "rewards.parquet",
    )
    launch(spec, IN_PROCESS)
    model, tokenizer = load_reward_model(tiny_reward_model), load_tokenizer(tiny_reward_model)
    expected = []
    for group in PromptGroups(groups_path):
        for response, finished in zip(group.responses, group.finished, strict=True):
            chat = [*group.messages, {"role": "assistant", "content": response}]
            text = tokenizer.apply_chat_template(chat, tokenize=False).removesuffix("\n")
            text = text if finished else text.removesuffix("<|im_end|>")
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                expected.append(float(model(input_ids=ids).logits))
    found = [reward for of_group in pd.read_parquet(spec.output_path)["rewards"] for reward in of_group]
    spread = max(expected) - min(expected)
    assert found == pytest.approx(expected, abs=1e-4 if mixed_precision == "no" else 8 * EPSILON * spread)


def killed_after(steps, monkeypatch):
    """Kill the run that is launched next after some steps."""
    from rao_kedro.training.progress import Progress

    report = Progress.report

    def dies(self, step, **kwargs):
        report(self, step, **kwargs)
        if step == steps:
            monkeypatch.setattr(Progress, "report", report)
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "report", dies)


@pytest.mark.parametrize("mixed_precision", ["no", *PRECISIONS])
def test_a_killed_run_goes_on_where_it_was(mixed_precision, tmp_path, wide_checkpoint, groups_path, monkeypatch):
    """Its losses are those of a run that was not killed, up to the order in which a GPU adds numbers up."""
    logs = []
    for name in ("whole", "killed"):
        training = bf16(epochs=3, checkpoint_every=1, learning_rate=1e-4, mixed_precision=mixed_precision)
        how = {"model_dir": wide_checkpoint, "groups_path": groups_path, "training": training}
        spec = TrainingSpec(workspace=tmp_path / name, **how)
        if name == "killed":
            killed_after(4, monkeypatch)
            with pytest.raises(KeyboardInterrupt):
                launch(spec, IN_PROCESS)
        launch(spec, IN_PROCESS)
        logs.append(log_of(spec.workspace))
    (steps, evaluations), (resumed, resumed_evaluations) = logs
    assert [row["step"] for row in resumed] == [row["step"] for row in steps]
    for whole, killed in ((steps, resumed), (evaluations, resumed_evaluations)):
        key = "loss" if whole is steps else "eval_loss"
        assert [row[key] for row in killed] == pytest.approx([row[key] for row in whole], rel=1e-3)

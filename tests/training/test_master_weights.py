"""Working copies in bf16 and fp32 masters: gradients, small steps, every task, checkpoints, several processes."""

import json

import pytest
import torch
from accelerate.state import AcceleratorState
from groups import alignment_spec, log_of, parameters, write_groups
from launching import IN_PROCESS
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from rao_kedro.config.rewards import RewardParameters
from rao_kedro.config.specs import PPOSpec, RewardTrainingSpec, ScoringSpec, TrainingSpec
from rao_kedro.config.training import LoRAParameters, RolloutParameters
from rao_kedro.models.adapters import add_lora
from rao_kedro.models.bf16_weights import round_weights
from rao_kedro.models.loading import load_causal_lm, load_reward_model, new_reward_model
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import reward_module
from rao_kedro.models.value_head import ValueNetwork
from rao_kedro.training.master_weights import MasterWeights
from rao_kedro.workers import launch

CPU = torch.device("cpu")
LORA = LoRAParameters(rank=4, alpha=8)
PACKS = [
    pack_groups([TokenizedGroup("a", [1, 50, 60], [[70, 71, 2], [80, 2]])]),
    pack_groups([TokenizedGroup("b", [1, 51], [[90, 91, 92, 2], [81, 2], [82]])]),
]


@pytest.fixture(autouse=True)
def precision_of_each_run():
    """accelerate remembers the precision of the run before."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def policy(directory, lora=None):
    module = LogProbModel(load_causal_lm(directory))
    if lora is not None:
        add_lora(module, lora)
    return module


def test_weights_are_rounded_but_heads_biases_and_buffers(tiny_checkpoint):
    module = nn.ModuleDict(
        {"policy": policy(tiny_checkpoint), "value": ValueNetwork(new_reward_model(tiny_checkpoint), 0.5)}
    )
    masters = MasterWeights(module, CPU)
    kept = {name for name, parameter in module.named_parameters() if parameter.dtype == torch.float32}
    assert kept == {"value.head.model.score.weight", "value.bias"}
    assert all(buffer.dtype == torch.float32 for buffer in module.buffers() if buffer.is_floating_point())
    own = dict(module.named_parameters())
    assert masters.parameters.keys() == own.keys()
    assert all(master.dtype == torch.float32 for master in masters.parameters.values())
    assert {name for name, master in masters.parameters.items() if master is own[name]} == kept


def test_masters_sum_the_bf16_gradients_of_packs_in_fp32(tiny_checkpoint):
    module = policy(tiny_checkpoint)
    masters = MasterWeights(module, CPU)
    summed = {}
    for pack in PACKS:
        round_weights(plain := policy(tiny_checkpoint))
        plain(pack).responses.sum().backward()
        for name, parameter in plain.named_parameters():
            assert parameter.grad.dtype == torch.bfloat16
            summed[name] = summed.get(name, 0) + parameter.grad.float()
        module(pack).responses.sum().backward()
    assert summed.keys() == masters.parameters.keys()
    for name, master in masters.parameters.items():
        assert torch.equal(master.grad, summed[name]), name
    assert all(parameter.grad is None for parameter in module.parameters())


def test_masters_move_at_a_rate_at_which_bf16_weights_do_not(tiny_checkpoint):
    module = policy(tiny_checkpoint)
    masters = MasterWeights(module, CPU)
    before, alone = masters.gather(module), [p.detach().clone().requires_grad_() for p in module.parameters()]
    optimizers = [torch.optim.AdamW(trained, lr=5e-7) for trained in (masters.parameters.values(), alone)]
    module(PACKS[0]).responses.sum().backward()
    for copy, master in zip(alone, masters.parameters.values(), strict=True):
        copy.grad = master.grad.to(torch.bfloat16)
    before = {name: value.clone() for name, value in before.items()}
    unmoved = [copy.clone() for copy in alone]
    for optimizer in optimizers:
        optimizer.step()
    moved = torch.cat([(before[name] != master).flatten() for name, master in masters.parameters.items()])
    rounded = torch.cat([(a != b).flatten() for a, b in zip(alone, unmoved, strict=True)])
    assert moved.float().mean() > 0.9 and rounded.float().mean() < 0.01


def test_copies_are_the_rounded_masters_after_a_step_and_tied_weights_stay_one(tiny_checkpoint):
    module = policy(tiny_checkpoint)
    masters = MasterWeights(module, CPU)
    with torch.no_grad():
        for master in masters.parameters.values():
            master += 0.1
    masters.refresh()
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, masters.parameters[name].bfloat16())
    model = module.model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    weights = masters.gather(module)
    assert weights.keys() == module.state_dict().keys()
    assert torch.equal(weights["model.lm_head.weight"], masters.parameters["model.model.embed_tokens.weight"])


def test_frozen_weights_keep_what_rounding_would_lose(tiny_checkpoint):
    module = policy(tiny_checkpoint, LORA)
    layers = module.model.model.layers
    exact = layers[0].mlp.down_proj.base_layer.weight
    exact.data = exact.data.bfloat16().float()
    expected = {name: value.clone() for name, value in module.state_dict().items()}
    masters = MasterWeights(module, CPU)
    assert all(".lora_" in name for name in masters.parameters)
    found = masters.gather(module)
    for name, value in expected.items():
        assert torch.equal(found[name].float(), value), name
    assert found["model.model.layers.0.mlp.down_proj.base_layer.weight"].dtype == torch.bfloat16
    assert found["model.model.layers.1.mlp.down_proj.base_layer.weight"].dtype == torch.float32


def test_a_padded_classifier_computes_its_head_in_fp32(tiny_reward_model):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_labels=1
    )
    module = reward_module(BertForSequenceClassification(config).eval())
    expected = module(PACKS[0])
    masters = MasterWeights(module, CPU)
    found = module(PACKS[0])
    assert module.model.classifier.weight.dtype == found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)
    found.sum().backward()
    assert all(master.grad.dtype == torch.float32 for master in masters.parameters.values())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, tiny_checkpoint):
    directory = tmp_path_factory.mktemp("inputs")
    spec = ScoringSpec(
        workspace=directory / "scoring",
        model_dir=tiny_checkpoint,
        groups_path=write_groups(directory / "groups.parquet", 12),
        output_path=directory / "reference.parquet",
        mixed_precision="bf16_weights",
    )
    launch(spec, IN_PROCESS)
    return directory


def test_the_optimizer_gets_the_clipped_gradients_of_the_masters(
    inputs, tmp_path, tiny_checkpoint, tiny_reward_model, monkeypatch
):
    step, norms = torch.optim.AdamW.step, []

    def recorded(self, *args, **kwargs):
        trained = [parameter for group in self.param_groups for parameter in group["params"]]
        assert {parameter.dtype for parameter in trained} == {torch.float32}
        norms.append(float(torch.nn.utils.get_total_norm([parameter.grad for parameter in trained])))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    spec = spec_of("sft", inputs, tmp_path, tiny_checkpoint, tiny_reward_model, max_grad_norm=0.01)
    launch(spec, IN_PROCESS)
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)
    assert all(row["grad_norm"] > 0.1 for row in log_of(spec.workspace)[0])


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_killed_run_goes_on_to_the_same_weights(
    lora, inputs, tmp_path, tiny_checkpoint, tiny_reward_model, killed_at_step_4
):
    changes = {"checkpoint_every": 1, "published_dtype": "fp32", "lora": lora}
    stopped, whole = (
        spec_of("sft", inputs, tmp_path / name, tiny_checkpoint, tiny_reward_model, **changes)
        for name in ("stopped", "whole")
    )
    with pytest.raises(KeyboardInterrupt):
        launch(stopped, IN_PROCESS)
    for spec in (stopped, whole):
        launch(spec, IN_PROCESS)
    assert killed_at_step_4 == [1, 2, 3, 4, 4, 5, 6, 1, 2, 3, 4, 5, 6]
    found, expected = (load_file(spec.trained_dir / "model.safetensors") for spec in (stopped, whole))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("precision", "published", "dtype"),
    [
        ("bf16_weights", None, "bfloat16"),
        ("bf16_weights", "fp32", "float32"),
        ("bf16", None, "bfloat16"),
        ("bf16", "fp32", "float32"),
        ("no", None, "float32"),
        ("no", "bf16", "bfloat16"),
    ],
)
def test_weights_are_published_in_the_dtype_that_the_parameters_name(
    precision, published, dtype, inputs, tmp_path, tiny_checkpoint, tiny_reward_model
):
    changes = {"epochs": 1, "published_dtype": published}
    spec = spec_of("sft", inputs, tmp_path, tiny_checkpoint, tiny_reward_model, precision, **changes)
    launch(spec, IN_PROCESS)
    found = load_file(spec.trained_dir / "model.safetensors")
    assert {str(value.dtype) for value in found.values()} == {f"torch.{dtype}"}
    assert json.loads((spec.trained_dir / "config.json").read_text())["dtype"] == dtype


OBJECTIVES = {"rao": {"beta": 1.0, "log_z0": 0.0}, "dpo": {"beta": 0.5}, "dro": {"tau": 1.0}, "kto": {"beta": 0.5}}


def spec_of(name, inputs, directory, model, reward_model, precision="bf16_weights", **changes):
    changes = {"epochs": 3, "learning_rate": 1e-3, "keep": "last", "max_tokens_per_batch": 40} | changes
    training = parameters(mixed_precision=precision, **changes)
    common = {
        "workspace": directory / name,
        "groups_path": inputs / "groups.parquet",
        "model_dir": model,
        "training": training,
    }
    if name == "sft":
        return TrainingSpec(**common)
    if name == "reward":
        return RewardTrainingSpec(**common)
    if name == "ppo":
        reward = RewardParameters(parameters={"model_dir": str(reward_model), "mixed_precision": precision})
        rollout = RolloutParameters(max_new_tokens=6, samples_per_prompt=2, ppo_epochs=2, reward=reward)
        return PPOSpec(
            **common,
            reference_path=inputs / "reference.parquet",
            reward_model_dir=reward_model,
            objective_parameters={"beta": 0.01},
            rollout=rollout,
        )
    spec = alignment_spec(inputs, model, inputs / "groups.parquet", name, training=training, **OBJECTIVES[name])
    return spec.model_copy(update={"workspace": directory / name})


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("name", ["sft", "reward", *OBJECTIVES, "ppo"])
def test_every_task_trains_as_under_autocast(name, lora, inputs, tmp_path, tiny_checkpoint, tiny_reward_model):
    changes = {"lora": lora, "learning_rate": 1e-2} if lora else {}
    spec = spec_of(name, inputs, tmp_path, tiny_checkpoint, tiny_reward_model, **changes)
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    assert steps[0]["grad_norm"] > 0 and evaluations
    assert all(value.dtype == torch.bfloat16 for value in load_file(spec.trained_dir / "model.safetensors").values())
    load = load_reward_model if name == "reward" else load_causal_lm
    load(spec.trained_dir)
    if name in ("sft", "reward"):
        assert steps[-1]["loss"] < steps[0]["loss"]
    elif name in OBJECTIVES:  # policy and reference compute alike
        assert abs(steps[0]["log_ratio_chosen"]) < 0.05 and steps[-1]["margin"] > steps[0]["margin"]

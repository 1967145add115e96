"""LoRA, activation checkpointing, optimizers: each through the real loop, and what is refused."""

import copy
import functools
import random
import shutil
from types import SimpleNamespace

import pytest
import torch
import varlen_on_cpu
from accelerate import Accelerator
from groups import alignment_spec, log_of, parameters, reference, write_groups
from launching import IN_PROCESS
from padded import padded_rewards
from torch._dynamo.utils import counters
from transformers import BertConfig, BertForSequenceClassification, MistralConfig, MistralForCausalLM

from rao_kedro.config.specs import RewardTrainingSpec, TrainingSpec
from rao_kedro.config.training import LoRAParameters
from rao_kedro.data.token_tables import read_groups
from rao_kedro.errors import ParameterError, TrainingError
from rao_kedro.models.adapters import add_lora, merge_lora
from rao_kedro.models.loading import load_causal_lm, load_reward_model, new_reward_model, use_packed_attention
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import reward_module
from rao_kedro.models.value_head import TokenValues, ValueNetwork, pack_prompts
from rao_kedro.training import options
from rao_kedro.training.options import compile_layers, plan_compilation, prepare_module
from rao_kedro.workers import launch

LORA = LoRAParameters(rank=4, alpha=8)
GROUP = TokenizedGroup("a", [1, 50, 60], [[70, 71, 2], [80, 2]])


@pytest.fixture
def groups_path(tmp_path):
    return write_groups(tmp_path / "groups.parquet", 12)


def test_adapters_change_nothing_at_first_and_their_merged_weights_compute_the_same(tiny_checkpoint):
    plain = LogProbModel(load_causal_lm(tiny_checkpoint))
    adapted = LogProbModel(load_causal_lm(tiny_checkpoint))
    add_lora(adapted, LORA)
    batch = pack_groups([GROUP])
    torch.testing.assert_close(adapted(batch).responses, plain(batch).responses)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 7 and all(".lora_" in name for name in trained)  # A and B, 2 layers of 7 matrices
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    weights = merge_lora(adapted.state_dict(), LORA)
    assert weights.keys() == plain.state_dict().keys()
    plain.load_state_dict(weights)
    torch.testing.assert_close(adapted(batch).responses, plain(batch).responses, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dpo", "rao", "dro"])
def test_a_policy_trained_with_lora_is_published_as_a_plain_checkpoint(tmp_path, tiny_checkpoint, groups_path, name):
    reference(tmp_path, tiny_checkpoint, groups_path)
    training = parameters(epochs=10, learning_rate=1e-2, lora=LORA, eval_every_epochs=10, keep="last")
    chosen = {"dpo": {"beta": 0.5}, "rao": {"beta": 1.0, "log_z0": "auto"}, "dro": {"tau": 1.0}}[name]
    spec = alignment_spec(tmp_path, tiny_checkpoint, groups_path, name, training=training, **chosen)
    launch(spec, IN_PROCESS)
    steps, evaluations = log_of(spec.workspace)
    assert abs(steps[0]["log_ratio_chosen"]) < 1e-3 and steps[-1]["loss"] < steps[0]["loss"]
    before, after = load_causal_lm(tiny_checkpoint).state_dict(), load_causal_lm(spec.workspace / "model").state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2 * 7 and all("_proj" in name for name in changed)
    # What was evaluated last is what was saved.
    from rao_kedro.data.token_tables import read_groups, read_reference

    held_out = read_groups(groups_path, "validation")
    known = read_reference(spec.reference_path, groups_path)
    policy = LogProbModel(load_causal_lm(spec.workspace / "model"))
    with torch.no_grad():
        ratios = [policy(pack_groups([g])).responses[0, 0].item() - known[g.group_id][1][0] for g in held_out]
    assert sum(ratios) / len(ratios) == pytest.approx(evaluations[-1]["eval_log_ratio_chosen"], abs=1e-3)


def test_a_reward_model_with_lora_trains_its_head_too(tmp_path, tiny_checkpoint):
    """The published model, computed the plain way, prefers the chosen responses of held-out groups."""
    spec = RewardTrainingSpec(
        workspace=tmp_path / "reward",
        model_dir=tiny_checkpoint,
        groups_path=write_groups(tmp_path / "groups.parquet", 300),
        training=parameters(epochs=3, learning_rate=1e-2, lora=LORA),
    )
    launch(spec, IN_PROCESS)
    steps, _ = log_of(spec.workspace)
    assert steps[-1]["accuracy"] > 0.9
    model = load_reward_model(spec.workspace / "model")
    with torch.no_grad():
        rewards = [padded_rewards(model, group) for group in read_groups(spec.groups_path, "validation")]
    assert sum(bool(of_group[0] > of_group[1]) for of_group in rewards) > 0.8 * len(rewards) > 0


@pytest.mark.parametrize("kind", ["reward model", "value network", "token values", "encoder"])
def test_a_head_gets_no_adapter_and_is_trained_as_it_is(tmp_path, tiny_checkpoint, tiny_reward_model, kind):
    """Its weights are read without its forward pass, so that an adapter would get no gradient: DDP would stop."""
    match kind:
        case "reward model":
            module, heads = reward_module(new_reward_model(tiny_checkpoint)), {"model.score.weight"}
        case "value network":
            module = ValueNetwork(new_reward_model(tiny_checkpoint), 0.5)
            heads = {"head.model.score.weight", "bias"}
        case "token values":
            module, heads = TokenValues(load_reward_model(tiny_reward_model)), {"model.score.weight"}
        case "encoder":
            size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            module = reward_module(BertForSequenceClassification(BertConfig(num_labels=1, pad_token_id=0, **size)))
            heads = {"model.classifier.weight", "model.classifier.bias"}
    names = set(module.state_dict())
    add_lora(module, LORA)
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert heads <= trained and all(".lora_" in name for name in trained - heads)
    pack = pack_prompts if kind == "value network" else pack_groups
    module(pack([GROUP])).square().sum().backward()
    assert not [name for name, parameter in module.named_parameters() if name in trained and parameter.grad is None]
    assert set(merge_lora(module.state_dict(), LORA)) == names


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "q_prj"])
def test_a_target_module_that_is_no_layer_of_the_backbone_is_refused(tiny_checkpoint, name):
    wanted = LORA.model_copy(update={"target_modules": ["q_proj", name]})
    with pytest.raises(ParameterError, match=f"target_modules: {name}: LlamaForCausalLM has no .*down_proj, gate_proj"):
        add_lora(LogProbModel(load_causal_lm(tiny_checkpoint)), wanted)


def test_activation_checkpointing_trains_the_same_weights(tmp_path, tiny_checkpoint, groups_path):
    found = []
    for on in (False, True):
        training = parameters(epochs=2, keep="last", activation_checkpointing=on)
        spec = TrainingSpec(
            workspace=tmp_path / str(on), model_dir=tiny_checkpoint, groups_path=groups_path, training=training
        )
        launch(spec, IN_PROCESS)
        found.append(load_causal_lm(spec.workspace / "model").state_dict())
    for name, weights in found[0].items():
        torch.testing.assert_close(weights, found[1][name])


def packs_of_many_shapes(n):
    rng = random.Random(0)

    def tokens(most):
        return [rng.randrange(3, 120) for _ in range(rng.randint(2, most))]

    for _ in range(n):
        groups = [TokenizedGroup("g", tokens(20), [tokens(9) for _ in range(rng.randint(1, 4))]) for _ in range(3)]
        yield pack_groups(groups[: rng.randint(1, 3)])


@pytest.mark.parametrize(
    ("window", "backend"), [(None, "aot_eager"), pytest.param(4, "inductor", marks=pytest.mark.slow)]
)
def test_layers_with_the_attention_inside_are_one_graph_for_packs_of_every_shape(window, backend, monkeypatch):
    """The kernel is emulated. With gradients and without there is a graph each, and none breaks."""
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("compiling for a CPU needs a C++ compiler")
    varlen_on_cpu.use_varlen(monkeypatch, torch.float32)
    monkeypatch.setattr(options, "sharding", lambda: None)
    torch.compiler.reset()
    size = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    config = MistralConfig(**size, num_attention_heads=2, num_key_value_heads=1, sliding_window=window)
    model = use_packed_attention(MistralForCausalLM(config))
    policy, plain = LogProbModel(model), LogProbModel(copy.deepcopy(model))
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend=backend))
    compile_layers(policy, SimpleNamespace(device=torch.device("cuda")))
    before, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    for i, pack in enumerate(packs_of_many_shapes(8)):
        with torch.set_grad_enabled(i != 4):
            found, expected = policy(pack).responses, plain(pack).responses
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        if i == 4:
            continue
        gradients = [
            torch.autograd.grad(logps.sum(), list(module.parameters()))
            for logps, module in ((found, policy), (expected, plain))
        ]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] - before == 2
    assert sum(counters["graph_break"].values()) == breaks


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize(("lora", "activation_checkpointing"), [(None, False), (LORA, True)])
def test_compiled_layers_train_the_same_weights(tmp_path, tiny_checkpoint, groups_path, lora, activation_checkpointing):
    reference(tmp_path, tiny_checkpoint, groups_path)
    found = []
    for compiled in (False, True):
        torch.compiler.reset()
        training = parameters(
            epochs=2, keep="last", compile=compiled, lora=lora, activation_checkpointing=activation_checkpointing
        )
        (directory := tmp_path / str(compiled)).mkdir()
        shutil.copy(tmp_path / "reference.parquet", directory)
        spec = alignment_spec(directory, tiny_checkpoint, groups_path, training=training, beta=1.0, log_z0=0.0)
        before = counters["stats"]["unique_graphs"]
        launch(spec, IN_PROCESS)
        graphs = counters["stats"]["unique_graphs"] - before
        assert 0 < graphs < 16 if compiled else graphs == 0  # packs of every shape share their graphs
        found.append(load_causal_lm(spec.workspace / "model").state_dict())
    for name, weights in found[0].items():
        # Adam divides by the gradient's own size, so that one near 0 moves its weight by what is noise.
        torch.testing.assert_close(weights, found[1][name], rtol=1e-3, atol=5e-4)


def test_compiling_without_a_compiler_is_refused_at_the_start(tmp_path, tiny_checkpoint, groups_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    training = parameters(compile=True)
    spec = TrainingSpec(workspace=tmp_path / "x", model_dir=tiny_checkpoint, groups_path=groups_path, training=training)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="needs a C\\+\\+ compiler on a CPU; no-such-compiler is not installed"):
            launch(spec, IN_PROCESS)


def test_a_model_that_does_not_name_its_layers_cannot_be_compiled(tiny_checkpoint, monkeypatch):
    monkeypatch.setenv("CXX", "true")  # any program: none is called
    model = load_causal_lm(tiny_checkpoint)
    model._no_split_modules = []
    with pytest.raises(TrainingError, match="which LlamaForCausalLM does not name"):
        compile_layers(LogProbModel(model), Accelerator())


def test_sharding_that_cannot_work_is_refused_at_the_start(tiny_checkpoint, monkeypatch):
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1), deepspeed_plugin=None)
    accelerator = SimpleNamespace(state=state, mixed_precision="no", device=torch.device("meta"))
    module = LogProbModel(load_causal_lm(tiny_checkpoint))
    with pytest.raises(TrainingError, match="FSDP1"):
        prepare_module(module, parameters(), accelerator)
    monkeypatch.setattr(options, "sharding", lambda: "DEEPSPEED")
    with pytest.raises(TrainingError, match="does not work with DeepSpeed"):
        compile_layers(module, accelerator)


def test_layers_are_compiled_on_a_gpu_where_an_epoch_pays_it_back(tiny_checkpoint, monkeypatch):
    """6 FLOPs per parameter and token, 30 PFLOP per process; adapters leave 4 per parameter."""
    module = LogProbModel(load_causal_lm(tiny_checkpoint))
    enough = int(30e15 / sum(p.numel() for p in module.parameters()) / 6) + 1

    def plan(tokens, n_processes=1, device="cuda", sharded_by=None, **how):
        accelerator = SimpleNamespace(device=torch.device(device), num_processes=n_processes)
        with monkeypatch.context() as patch:
            patch.setattr(options.importlib.util, "find_spec", lambda name: object())
            patch.setattr(options.shutil, "which", lambda name: name)
            patch.setattr(options, "sharding", lambda: sharded_by)
            return plan_compilation(module, parameters(**how), accelerator, tokens)

    assert plan(enough).on and not plan(enough - 2).on
    assert plan(enough).reason == "layers are compiled: an epoch takes 30 PFLOP per process, compiling pays from 30 on"
    assert not plan(enough, 2).on and plan(2 * enough, 2).on
    assert not plan(enough, device="cpu").on and plan(1, device="cpu", compile=True).on
    assert not plan(enough, compile=False).on
    assert plan(enough, sharded_by="FSDP").on and "DeepSpeed" in plan(enough, sharded_by="DEEPSPEED").reason
    add_lora(module, LORA)
    assert not plan(enough).on
    module.model.set_attn_implementation("eager")
    assert "its own attention" in plan(2 * enough).reason


def test_8_bit_states_of_a_sharded_model_are_refused(monkeypatch):
    monkeypatch.setattr(options, "sharding", lambda: "FSDP")
    with pytest.raises(TrainingError, match="adamw_8bit does not work with FSDP"):
        options.make_optimizer([], parameters(optimizer="adamw_8bit"), torch.device("cuda"))


def test_an_optimizer_that_does_not_run_here_is_refused_at_the_start(tmp_path, tiny_checkpoint, groups_path):
    training = parameters(optimizer="adamw_8bit")
    spec = TrainingSpec(workspace=tmp_path / "x", model_dir=tiny_checkpoint, groups_path=groups_path, training=training)
    if not torch.cuda.is_available():
        with pytest.raises(TrainingError, match="adamw_8bit needs a CUDA device and bitsandbytes; the device is cpu"):
            launch(spec, IN_PROCESS)

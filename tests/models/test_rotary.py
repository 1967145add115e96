"""A row is computed as plain transformers computes it alone, whatever stands beside it or came before it."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rao_kedro.config.generation import SamplingParameters
from rao_kedro.errors import GenerationError, ModelError
from rao_kedro.generation.generators import make_generator
from rao_kedro.generation.transformers_backend import TransformersGenerator, continue_prompts
from rao_kedro.models.loading import load_causal_lm, new_reward_model
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.models.reward_head import PaddedRewards, reward_module
from rao_kedro.models.rotary import rotary_limit
from rao_kedro.models.tiny import build_tiny_checkpoint
from rao_kedro.rewards.bradley_terry import context_length
from rao_kedro.scoring.forward import ForwardPass, score_logps

LIMIT = 16  # tokens of the original length
SHORT = TokenizedGroup("short", [1, 10, 11, 12], [[20, 21, 2], [30, 31, 32, 33, 2]])
FITTING = TokenizedGroup("fitting", [1, *range(20, 27)], [[*range(30, 37), 2], [40, 2]])  # exactly 16 tokens
LONG = TokenizedGroup("long", [1, *range(20, 27)], [[40, 2], [*range(30, 38), 2]])  # 17 tokens
SIZES = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": LIMIT,
}
FACTORS = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [4.0, 5.0, 6.0, 7.0]}
STRETCHED = {"factor": 4.0, "original_max_position_embeddings": LIMIT}
LLAMA3 = STRETCHED | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": LIMIT} | FACTORS
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
LAYERS = ["sliding_attention", "full_attention"]
STRETCHABLE = {"max_position_embeddings": 4 * LIMIT}
INDEPENDENT = {
    "default": ("llama", {"rope_parameters": PLAIN}),
    "linear": ("llama", {"rope_parameters": PLAIN | {"rope_type": "linear", "factor": 4.0}}),
    "yarn": ("llama", {"rope_parameters": PLAIN | STRETCHED | {"rope_type": "yarn"}} | STRETCHABLE),
    "llama3": ("llama", {"rope_parameters": PLAIN | LLAMA3 | {"rope_type": "llama3"}} | STRETCHABLE),
    "by layer type": (
        "gemma3_text",
        {
            "layer_types": LAYERS,
            "rope_parameters": dict(zip(LAYERS, [PLAIN, PLAIN | {"rope_type": "linear", "factor": 4.0}], strict=True)),
        },
    ),
}
DEPENDENT = {
    "dynamic": ("llama", {"rope_parameters": DYNAMIC}),
    "longrope": ("llama", {"rope_parameters": LONGROPE} | STRETCHABLE),
    "phi3": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": LIMIT} | STRETCHABLE),
    "dynamic by layer type": (
        "gemma3_text",
        {"layer_types": LAYERS, "rope_parameters": dict(zip(LAYERS, [PLAIN, DYNAMIC], strict=True))},
    ),
}


def config_of(kind):
    family, architecture = (INDEPENDENT | DEPENDENT)[kind]
    return AutoConfig.for_model(family, **SIZES | architecture)


def saved(kind, directory, loader=AutoModelForCausalLM, **more):
    torch.manual_seed(0)
    config = config_of(kind)
    for name, value in more.items():
        setattr(config, name, value)
    loader.from_config(config).save_pretrained(directory)
    return directory


def plain_logps(model_dir, group):
    """The log-prob of each response under a model that has computed nothing else."""
    found = []
    for response in group.response_ids:
        model = AutoModelForCausalLM.from_pretrained(model_dir).eval()
        ids = torch.tensor([[*group.prompt_ids, *response]])
        with torch.no_grad():
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        found.append(logps[len(group.prompt_ids) - 1 :].sum().item())
    return found


def logps_of(module, groups):
    with torch.no_grad():
        rows = module(pack_groups(groups)).responses.tolist()
    return {group.group_id: row for group, row in zip(groups, rows, strict=True)}


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_a_longer_group_beside_or_before_changes_nothing(kind, tmp_path):
    model_dir = saved(kind, tmp_path)
    module = LogProbModel(load_causal_lm(model_dir).eval())
    assert rotary_limit(module.model.config) is None
    expected = {group.group_id: plain_logps(model_dir, group) for group in (SHORT, FITTING, LONG)}
    for groups in ([SHORT], [SHORT, FITTING, LONG], [LONG], [SHORT], [FITTING]):
        for name, logps in logps_of(module, groups).items():
            assert logps == pytest.approx(expected[name], abs=1e-4)


@pytest.mark.parametrize("kind", DEPENDENT)
def test_a_group_beyond_the_original_length_is_refused_and_leaves_no_trace(kind, tmp_path):
    model_dir = saved(kind, tmp_path)
    module = LogProbModel(load_causal_lm(model_dir).eval())
    assert rotary_limit(module.model.config) == context_length(module.model) == LIMIT
    expected = {group.group_id: plain_logps(model_dir, group) for group in (SHORT, FITTING)}
    for groups in ([SHORT], [SHORT, FITTING], [SHORT, LONG], [LONG], [SHORT], [FITTING]):
        if LONG in groups:
            with pytest.raises(ModelError, match=r"17 tokens\. Beyond 16 tokens, the rotary embedding of \w+ "):
                logps_of(module, groups)
            continue
        for name, logps in logps_of(module, groups).items():
            assert logps == pytest.approx(expected[name], abs=1e-4)


def test_scoring_names_the_group_before_it_computes_anything(tmp_path):
    module = LogProbModel(load_causal_lm(saved("dynamic", tmp_path)))
    how = ForwardPass("no", 64, 1)
    with pytest.raises(ModelError, match="the longest row of group long, a prompt and a response, has 17 tokens"):
        score_logps(module, [SHORT, FITTING, LONG], how)
    assert set(score_logps(module, [SHORT, FITTING], how)) == {"short", "fitting"}


def test_padded_rows_are_refused_as_well(tmp_path):
    saved("dynamic", tmp_path, AutoModelForSequenceClassification, num_labels=1)
    model = new_reward_model(tmp_path).eval()
    for module in (PaddedRewards(model), reward_module(model)):
        with torch.no_grad():
            alone = module(pack_groups([SHORT]))
            with pytest.raises(ModelError, match=r"17 tokens\. Beyond 16 tokens"):
                module(pack_groups([SHORT, LONG]))
            torch.testing.assert_close(module(pack_groups([SHORT, FITTING]))[0], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "phi3"])
def test_text_is_written_up_to_the_original_length_alone_as_in_a_batch(kind, tmp_path):
    model = load_causal_lm(saved(kind, tmp_path)).eval()
    prompts, greedy = [SHORT.prompt_ids, FITTING.prompt_ids], SamplingParameters(temperature=0.0, max_tokens=8)
    alone = [continue_prompts(model, [prompt], greedy, [2])[0] for prompt in prompts]
    together = continue_prompts(model, prompts, greedy, [2])
    assert [ids[: len(row)] for ids, row in zip(together, alone, strict=True)] == alone
    with pytest.raises(ModelError, match=r"a prompt of 8 tokens with 9 to write has 17 tokens\. Beyond 16"):
        continue_prompts(model, prompts, SamplingParameters(temperature=0.0, max_tokens=9), [2])


def test_a_generator_refuses_before_it_writes_or_starts(tmp_path):
    build_tiny_checkpoint(tmp_path / "model", rope_parameters=DYNAMIC, max_position_embeddings=LIMIT)
    generator = TransformersGenerator(tmp_path / "model", "float32", batch_rows=1)
    with pytest.raises(ModelError, match="a prompt of 17 tokens with 2 to write has 19 tokens"):
        next(generator.stream([[1, 50], [1] * 17], SamplingParameters(temperature=0.0, max_tokens=2)))
    with pytest.raises(ModelError, match="a prompt of 17 tokens with 0 to write has 17 tokens"):
        generator.continuation_logps([[1, 50], [1] * 16], [[[3]], [[3, 4]]])
    with pytest.raises(GenerationError, match=r"max_model_len is 17\. .* to 16 or less"):
        make_generator("vllm", tmp_path / "model", max_model_len=17)

"""Prefix-shared attention against the dense mask and against plain padded rows, in models of several families."""

import pytest
import torch
from padded import padded_logps
from transformers import AutoConfig, AutoModelForCausalLM

from rao_kedro.errors import ModelError
from rao_kedro.models import attention
from rao_kedro.models.attention import PACKED, PackLayout
from rao_kedro.models.loading import load_causal_lm, use_packed_attention
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups

GROUPS = [
    TokenizedGroup("a", [1, 10, 11, 12], [[20, 21, 2], [30, 2], [40, 41, 42, 43, 2]]),
    TokenizedGroup("b", [1, 50, 51, 52, 53, 54], [[60, 2], [61, 62, 63, 2]]),
]
SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 5},
    "gemma2": {"sliding_window": 5, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 5},
    "granite": {"logits_scaling": 2.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
    "olmo2": {},
}


@pytest.fixture(autouse=True)
def responses_of_several_blocks(monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", 3)


def model_of(family, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES | FAMILIES[family] | more)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


def gradients(model, logps):
    model.zero_grad()
    (logps.responses.square().sum() + 3 * logps.prompts.sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_with_gradients(family):
    model = model_of(family)
    model.set_attn_implementation("eager")
    oracle = padded_logps(model, GROUPS)
    expected = gradients(model, oracle)
    model.set_attn_implementation(PACKED)
    packed = LogProbModel(model)(pack_groups(GROUPS), "attached")
    torch.testing.assert_close(packed.responses, oracle.responses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(packed.prompts, oracle.prompts, rtol=1e-6, atol=1e-6)
    found = gradients(model, packed)
    assert found.keys() == expected.keys()
    for name in found:
        assert (found[name] - expected[name]).norm() <= 1e-5 * expected[name].norm() + 1e-9, name


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_flex_attention_equals_the_path_by_segments(window, softcap, monkeypatch):
    """What runs on CUDA, uncompiled on the CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(attention, "_flex_attention", flex_attention)
    torch.manual_seed(0)
    layout = pack_groups(GROUPS).layout
    n = sum(layout.lengths)
    query, key, value = (torch.randn(1, heads, n, 16, dtype=torch.float64) for heads in (4, 2, 2))
    flex = attention._flex(query, key, value, attention.Scores(None, window, softcap), layout)
    ours, _ = attention.packed_attention(
        torch.nn.Identity(), query, key, value, None, packed_layout=layout, sliding_window=window, softcap=softcap
    )
    torch.testing.assert_close(flex.transpose(1, 2), ours)


def test_the_dense_mask_shows_a_token_its_prompt_and_its_own_response_only():
    layout = PackLayout(((2, 1, 2), (1, 1)))
    rows = ["1000000", "1100000", "1110000", "1101000", "1101100", "0000010", "0000011"]
    assert ["".join(map(str, row)) for row in layout.dense_mask().int().tolist()] == rows


def test_a_loaded_model_generates_as_it_does_with_sdpa(tiny_checkpoint):
    ids = torch.tensor([[5, 1, 50, 60], [1, 50, 60, 70]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    model = load_causal_lm(tiny_checkpoint).eval()
    assert model.config._attn_implementation == PACKED
    written = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    model.set_attn_implementation("sdpa")
    assert written.tolist() == model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False).tolist()


UNPACKABLE = {
    "mamba": ({}, r"\(linear_attention\)"),
    "rwkv": ({}, "it keeps a state along the sequence"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, r"\(conv\)"),
    "qwen3_next": ({"layer_types": ["linear_attention", "full_attention"]}, r"\(linear_attention\)"),
}


@pytest.mark.parametrize("family", UNPACKABLE)
def test_a_model_that_would_see_other_responses_is_refused(family):
    more, reason = UNPACKABLE[family]
    config = AutoConfig.for_model(family, **SIZES | more)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=reason):
        LogProbModel(model)(pack_groups(GROUPS))


OTHERWISE = {
    "gptj": {"rotary_dim": 8},  # a mask of another kind
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},  # ALiBi, by the place in the row
    "modernbert-decoder": {"cls_token_id": 1, "sep_token_id": 2},
    "bert": {},  # sees what comes later
    "bloom": {"n_head": 4, "n_layer": 2},  # fails on a mask of four dimensions
}


@pytest.mark.parametrize("family", OTHERWISE)
def test_a_model_that_computes_a_packed_response_otherwise_than_alone_is_refused(family):
    torch.manual_seed(0)
    named = {"bos_token_id": 1, "eos_token_id": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | named | OTHERWISE[family])).train()
    how = "its code fails on them" if family == "bloom" else "its result for a response depends on the other responses"
    with pytest.raises(ModelError, match=f"cannot be trained on packed groups: {how}"):
        LogProbModel(use_packed_attention(model))
    assert all(module.training for module in model.modules())


def test_a_model_whose_attention_sdpa_cannot_compute_keeps_its_own():
    """As GPT-OSS with its sinks, which SDPA would leave out without a word where text is generated."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_oss", **SIZES, num_local_experts=2))
    assert use_packed_attention(model).config._attn_implementation == "eager"


def test_sliding_windows_without_the_attention_interface_are_refused():
    model = model_of("mistral")
    assert model.config._attn_implementation != PACKED
    with pytest.raises(ModelError, match="sliding windows"):
        LogProbModel(model)(pack_groups(GROUPS))


def test_attention_sinks_are_refused():
    layout = pack_groups(GROUPS).layout
    states = torch.zeros(1, 2, sum(layout.lengths), 4)
    with pytest.raises(ModelError, match="attention sinks"):
        attention.packed_attention(
            torch.nn.Identity(), states, states, states, None, packed_layout=layout, s_aux=torch.zeros(2)
        )

"""Where a reward model is read: a foreign one where its card does, one trained here where it was trained."""

import json
import shutil

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForSequenceClassification

from rao_kedro.errors import ModelError, ParameterError
from rao_kedro.models.chat_format import load_tokenizer
from rao_kedro.models.loading import load_reward_model, save_checkpoint
from rao_kedro.models.reward_head import PaddedRewards, RewardModel, reward_module
from rao_kedro.rewards import PromptGroup, make_reward

GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
THINKING = (  # a generation header that the finished dialogue does not have
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
BARE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
QUESTION = [{"role": "user", "content": "the quick fox"}]
GROUPS = [
    PromptGroup("a", QUESTION, ["the dog", "a lazy dog jumps over", "fox", "the brown dog "]),
    PromptGroup("b", [*QUESTION, {"role": "assistant", "content": "dog"}, {"role": "user", "content": "why"}], ["fox"]),
    PromptGroup("c", [{"role": "user", "content": "jumps"}], ["a dog", "a dog", "over the lazy dog"]),
]


def classifier(directory, tiny_checkpoint, template, family="llama", pad="unk", **architecture):
    """Write a reward model of another project: its own template, no word of ours in its configuration."""
    tokenizer = load_tokenizer(tiny_checkpoint)
    if template == GEMMA:
        special = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
        tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})
        tokenizer.add_tokens(special, special_tokens=True)
        bos = ("<bos>", tokenizer.bos_token_id)  # as Gemma's and Llama's tokenizers put one before any text
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    tokenizer.pad_token = {"unk": tokenizer.unk_token, "end of turn": "<|im_end|>", "newline": "Ċ"}[pad]
    tokenizer.chat_template = template
    sizes = SIZES | {"vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **(sizes | architecture)))
    save_checkpoint(model, tokenizer, directory)
    return directory


def card_scores(model_dir, groups=GROUPS, messages=None):
    """What a model card does: `model(**tokenizer.apply_chat_template(messages, tokenize=True))`, a row at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    tokenizer = load_tokenizer(model_dir)
    rows = []
    for group in groups:
        chats = [[*group.messages, {"role": "assistant", "content": response}] for response in group.responses]
        with torch.no_grad():
            batches = [tokenizer.apply_chat_template(c, return_tensors="pt", return_dict=True) for c in chats]
            rows.append([model(**_known(batch)).logits[0, 0].item() for batch in batches])
    return rows


def _known(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def bradley_terry(model_dir, **options):
    return make_reward("bradley_terry", model_dir=model_dir, **({"mixed_precision": "no"} | options))


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        order = [sorted(range(len(row)), key=lambda i: (round(row[i], 3), i)) for row in (ours, theirs)]
        assert order[0] == order[1]


FOREIGN = {
    "chatml": (None, "llama", "unk"),
    "gemma": (GEMMA, "llama", "unk"),
    "gemma with sliding windows": (GEMMA, "gemma3_text", "unk"),
    "a header that thinks": (THINKING, "llama", "unk"),
    "no special tokens": (BARE, "llama", "unk"),
    "chatml whose last token is padding": (None, "llama", "newline"),
    "an encoder": (None, "bert", "unk"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_model_is_read_where_its_card_reads_it(kind, tiny_checkpoint, tmp_path):
    template, family, pad = FOREIGN[kind]
    chatml = load_tokenizer(tiny_checkpoint).chat_template
    model = classifier(tmp_path / "model", tiny_checkpoint, template or chatml, family, pad)
    assert isinstance(reward_module(load_reward_model(model)), PaddedRewards if family == "bert" else RewardModel)
    expected = card_scores(model)
    assert_same(bradley_terry(model).score(GROUPS), expected)
    assert_same(bradley_terry(model, max_tokens_per_batch=60).score(GROUPS), expected)  # pieces of groups
    assert_same(bradley_terry(model, read_at="template_end").score(GROUPS), expected)


@pytest.mark.parametrize("template", ["chatml", "gemma"])
def test_the_end_of_the_turn_is_another_place_than_the_end_of_the_template(template, tiny_checkpoint, tmp_path):
    """Both templates end with a newline behind the end-of-turn token."""
    text = {"chatml": load_tokenizer(tiny_checkpoint).chat_template, "gemma": GEMMA}[template]
    model = classifier(tmp_path / "model", tiny_checkpoint, text)
    at_end, at_turn = (
        bradley_terry(model, read_at=where).score(GROUPS)[0] for where in ("template_end", "end_of_turn")
    )
    assert max(abs(a - b) for a, b in zip(at_end, at_turn, strict=True)) > 0.1


@pytest.mark.parametrize("template", ["chatml", "gemma"])
def test_a_cut_response_is_read_at_its_last_token_wherever_the_others_are(template, tiny_checkpoint, tmp_path):
    text = {"chatml": load_tokenizer(tiny_checkpoint).chat_template, "gemma": GEMMA}[template]
    model_dir = classifier(tmp_path / "model", tiny_checkpoint, text)
    tokenizer = load_tokenizer(model_dir)
    header = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    cut = [tokenizer(header + text, add_special_tokens=False, return_tensors="pt") for text in ("the do", "m")]
    with torch.no_grad():
        expected = [model(**_known(batch)).logits[0, 0].item() for batch in cut]
    group = PromptGroup("g", QUESTION, ["the do", "m", "the dog"], finished=[False, False, True])
    found = [bradley_terry(model_dir, read_at=where).score([group])[0] for where in ("template_end", "end_of_turn")]
    assert found[0][:2] == pytest.approx(expected, abs=1e-5) and found[1][:2] == pytest.approx(expected, abs=1e-5)


def test_an_unknown_place_is_refused(tiny_checkpoint, tiny_reward_model, tmp_path):
    with pytest.raises(ParameterError, match="read_at is 'eos'; it must be auto, template_end or end_of_turn"):
        bradley_terry(tiny_reward_model, read_at="eos")
    shutil.copytree(tiny_reward_model, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text()) | {"rao_kedro_read_at": "later"}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json: rao_kedro_read_at is 'later'"):
        bradley_terry(tmp_path / "model").score(GROUPS)


def test_a_template_that_refuses_a_role_costs_the_group_and_not_the_run(tiny_checkpoint, tmp_path):
    model = classifier(tmp_path / "model", tiny_checkpoint, GEMMA)
    system = PromptGroup("s", [{"role": "system", "content": "be brief"}, *QUESTION], ["dog", "fox"])
    for read_at in ("template_end", "end_of_turn"):
        refused, scored = bradley_terry(model, read_at=read_at).annotate([system, GROUPS[0]])
        assert all("no system role" in failure for failure in refused.failures) and len(refused.rewards) == 2
        assert not any(scored.failures)


def test_a_long_response_is_cut_where_the_model_ends_and_marked(tiny_checkpoint, tmp_path):
    chatml = load_tokenizer(tiny_checkpoint).chat_template
    model_dir = classifier(tmp_path / "model", tiny_checkpoint, chatml)
    group = PromptGroup("g", QUESTION, ["dog", "the dog " * 40])
    found = bradley_terry(model_dir, max_length=40).annotate([group])[0]
    assert found.truncated == [False, True] and not any(found.failures)
    tokenizer, model = load_tokenizer(model_dir), AutoModelForSequenceClassification.from_pretrained(model_dir)
    text = tokenizer.apply_chat_template([*QUESTION, {"role": "assistant", "content": "the dog " * 40}], tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt", truncation=True, max_length=40)["input_ids"]
    assert found.rewards[1] == pytest.approx(model(input_ids=ids).logits[0, 0].item(), abs=1e-5)


def test_a_model_without_a_template_is_told_what_to_do(tiny_checkpoint, tmp_path):
    model = classifier(tmp_path / "model", tiny_checkpoint, BARE)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"has no chat template: .* as its model card describes"):
        bradley_terry(model).score(GROUPS)

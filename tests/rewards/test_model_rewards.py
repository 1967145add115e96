"""Rewards that models compute: the same as plain transformers, whatever the batch, the padding and the order."""

import json
import math
import random
import shutil

import pytest
import torch
from padded import padded_logps
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from rao_kedro.errors import DataError, ModelError, ParameterError
from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.loading import load_causal_lm, new_reward_model, save_checkpoint
from rao_kedro.models.packing import TokenizedGroup
from rao_kedro.rewards import PromptGroup, make_reward, reward_names

TINY_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
RNG = random.Random(0)
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]


def text(n):
    return " ".join(RNG.choice(WORDS) for _ in range(n))


GROUPS = [
    PromptGroup(
        f"g{i}",
        [{"role": "user", "content": text(RNG.randrange(2, 9))}],
        [text(RNG.randrange(1, 12)) for _ in range(k)],
    )
    for i, k in enumerate((2, 4, 3, 2, 5))
]


def bradley_terry(model_dir, **parameters):
    return make_reward("bradley_terry", model_dir=model_dir, **({"mixed_precision": "no"} | parameters))


def plain_scores(model_dir, groups):
    """What plain transformers says of each response, alone and without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(model_dir)
    tokenizer = load_tokenizer(model_dir)
    result = []
    for group in groups:
        chats = [[*group.messages, {"role": "assistant", "content": response}] for response in group.responses]
        rows = [tokenizer.apply_chat_template(chat, tokenize=False).removesuffix("\n") for chat in chats]
        ids = [tokenizer(row, add_special_tokens=False, return_tensors="pt")["input_ids"] for row in rows]
        with torch.no_grad():
            result.append([model(input_ids=row).logits[0, 0].item() for row in ids])
    return result


def flat(scores):
    return torch.tensor([value for row in scores for value in row])


def test_a_trained_reward_scores_as_plain_transformers_does(tiny_reward_model):
    scores = bradley_terry(tiny_reward_model).score(GROUPS)
    assert [len(row) for row in scores] == [2, 4, 3, 2, 5]
    torch.testing.assert_close(flat(scores), flat(plain_scores(tiny_reward_model, GROUPS)), rtol=0, atol=1e-5)


def test_scores_depend_neither_on_the_batch_nor_on_the_order(tiny_reward_model):
    reference = flat(bradley_terry(tiny_reward_model).score(GROUPS))
    small = bradley_terry(tiny_reward_model, max_tokens_per_batch=70)  # pieces of groups, and single responses
    torch.testing.assert_close(flat(small.score(GROUPS)), reference, rtol=0, atol=1e-5)
    backwards = small.score(GROUPS[::-1])[::-1]
    torch.testing.assert_close(flat(backwards), reference, rtol=0, atol=1e-5)
    alone = [row for group in GROUPS for row in bradley_terry(tiny_reward_model).score([group])]
    torch.testing.assert_close(flat(alone), reference, rtol=0, atol=1e-5)


def test_bf16_scores_are_within_2_percent_of_their_spread(tiny_reward_model):
    exact = flat(bradley_terry(tiny_reward_model).score(GROUPS))
    coarse = flat(bradley_terry(tiny_reward_model, mixed_precision="bf16").score(GROUPS))
    assert 0 < (coarse - exact).abs().max() < 0.02 * exact.std() * 3


def test_the_last_token_is_found_by_its_place_where_padding_is_the_end_of_turn_token(tiny_reward_model, tmp_path):
    shutil.copytree(tiny_reward_model, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["pad_token_id"] = config["eos_token_id"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    expected = flat(bradley_terry(tiny_reward_model).score(GROUPS))
    torch.testing.assert_close(flat(bradley_terry(tmp_path / "model").score(GROUPS)), expected, rtol=0, atol=1e-5)
    assert (flat(plain_scores(tmp_path / "model", GROUPS)) - expected).abs().max() > 0.01  # what it protects from


def test_an_encoder_scores_padded_rows_as_it_scores_them_alone(tiny_checkpoint, tmp_path):
    tokenizer = load_tokenizer(tiny_checkpoint)
    config = BertConfig(**TINY_BERT, vocab_size=len(tokenizer), num_labels=1, pad_token_id=0)
    torch.manual_seed(0)
    save_checkpoint(BertForSequenceClassification(config), tokenizer, tmp_path / "bert")
    scores = flat(bradley_terry(tmp_path / "bert", read_at="end_of_turn").score(GROUPS))
    torch.testing.assert_close(scores, flat(plain_scores(tmp_path / "bert", GROUPS)), rtol=0, atol=1e-5)


def test_a_long_response_is_cut_and_marked_and_a_long_prompt_has_no_score(tiny_reward_model):
    group = PromptGroup("g", [{"role": "user", "content": "the fox"}], ["the dog", "the dog " * 50])
    n_prompt = len(prompt_token_ids(load_chat_format(tiny_reward_model), group.messages))
    found = bradley_terry(tiny_reward_model, max_length=n_prompt + 12).annotate([group])[0]
    assert found.truncated == [False, True] and not any(found.failures) and all(map(math.isfinite, found.rewards))
    found = bradley_terry(tiny_reward_model, max_length=n_prompt).annotate([group])[0]
    assert all(map(math.isnan, found.rewards)) and f"the prompt has {n_prompt} tokens" in found.failures[0]


def test_a_response_that_was_cut_is_scored_without_an_end_of_turn_token(tiny_reward_model):
    reward = bradley_terry(tiny_reward_model)
    group = PromptGroup("g", [{"role": "user", "content": "the fox"}], ["the dog", "the dog"], finished=[True, False])
    finished, cut = reward.score([group])[0]
    chat, model = load_chat_format(tiny_reward_model), load_causal_lm_head(tiny_reward_model)
    prompt, response = (
        prompt_token_ids(chat, group.messages),
        response_token_ids(chat, group.messages, "the dog"),
    )
    assert finished == pytest.approx(model([*prompt, *response]), abs=1e-5)
    assert cut == pytest.approx(model([*prompt, *response[:-1]]), abs=1e-5)


def test_a_prompt_that_the_template_refuses_has_no_score_and_leaves_the_others_theirs(tiny_reward_model, tmp_path):
    shutil.copytree(tiny_reward_model, tmp_path / "model")
    template = tmp_path / "model/chat_template.jinja"
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    template.write_text(refusal + template.read_text())
    system = PromptGroup("s", [{"role": "system", "content": "x"}, *GROUPS[0].messages], GROUPS[0].responses)
    first, refused, last = bradley_terry(tmp_path / "model").annotate([GROUPS[0], system, GROUPS[1]])
    assert all(map(math.isnan, refused.rewards)) and all("no system messages" in why for why in refused.failures)
    expected = bradley_terry(tiny_reward_model).score(GROUPS[:2])
    assert [first.rewards, last.rewards] == [pytest.approx(row, abs=1e-5) for row in expected]


def test_an_empty_response_that_was_cut_is_scored_too(tiny_reward_model):
    """A policy may write nothing but control tokens, which are no text, until its limit."""
    group = PromptGroup("g", [{"role": "user", "content": "the fox"}], ["", "the dog"], finished=[False, False])
    found = bradley_terry(tiny_reward_model).annotate([group])[0]
    assert all(map(math.isfinite, found.rewards)) and not any(found.failures)


def load_causal_lm_head(model_dir):
    model = AutoModelForSequenceClassification.from_pretrained(model_dir)
    return lambda ids: model(input_ids=torch.tensor([ids])).logits[0, 0].item()


def test_a_model_without_a_head_or_with_several_labels_is_refused(tiny_checkpoint, tmp_path):
    with pytest.raises(ModelError, match=r"is not a reward model: it lacks score\.weight"):
        bradley_terry(tiny_checkpoint).score(GROUPS)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=3)
    save_checkpoint(model, load_tokenizer(tiny_checkpoint), tmp_path / "three")
    for load in (bradley_terry(tmp_path / "three").score, lambda _: new_reward_model(tmp_path / "three")):
        with pytest.raises(ModelError, match="has 3 labels; it must have one"):
            load(GROUPS)


def test_a_tokenizer_that_cannot_chat_and_a_name_that_is_nowhere_are_refused(tiny_reward_model, tmp_path):
    shutil.copytree(tiny_reward_model, tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        bradley_terry(tmp_path / "model").score(GROUPS)
    with pytest.raises(ModelError, match="'no/such-model' is neither a directory nor a model"):
        bradley_terry("no/such-model").score(GROUPS)


def test_a_score_that_is_not_a_number_stops_and_names_the_group(tiny_reward_model, tmp_path):
    model = new_reward_model(tiny_reward_model)
    with torch.no_grad():
        model.score.weight[0, 0] = math.nan
    save_checkpoint(model, load_tokenizer(tiny_reward_model), tmp_path / "broken")
    with pytest.raises(DataError, match="a response of group g0 has the score nan"):
        bradley_terry(tmp_path / "broken").score(GROUPS)


@pytest.fixture(scope="module")
def policy(tiny_checkpoint, tmp_path_factory):
    """The tiny checkpoint after a step in a random direction."""
    model = load_causal_lm(tiny_checkpoint)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    directory = tmp_path_factory.mktemp("policy") / "model"
    save_checkpoint(model, load_tokenizer(tiny_checkpoint), directory)
    return directory


def test_the_implicit_reward_is_beta_times_the_log_ratio_of_the_plain_path(tiny_checkpoint, policy):
    reward = make_reward(
        "implicit", policy_dir=policy, reference_dir=tiny_checkpoint, beta=0.3, mixed_precision="no",
        max_tokens_per_batch=80,
    )  # fmt: skip
    scores, chat = reward.score(GROUPS), load_chat_format(tiny_checkpoint)
    for group, row in zip(GROUPS, scores, strict=True):
        responses = [response_token_ids(chat, group.messages, response) for response in group.responses]
        tokens = TokenizedGroup(group.group_id, prompt_token_ids(chat, group.messages), responses)
        with torch.no_grad():
            ours, theirs = (padded_logps(load_causal_lm(m), [tokens]).responses[0] for m in (policy, tiny_checkpoint))
        torch.testing.assert_close(torch.tensor(row), 0.3 * (ours - theirs), rtol=1e-4, atol=1e-4)


def test_the_implicit_reward_of_other_tokenizers_is_refused(tiny_checkpoint, policy, tmp_path):
    shutil.copytree(policy, tmp_path / "other")
    (tmp_path / "other/chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(ModelError, match="different tokenizers or chat templates"):
        make_reward("implicit", policy_dir=tmp_path / "other", reference_dir=tiny_checkpoint).score(GROUPS)


def test_an_identity_tells_weights_precision_and_beta_apart(tiny_checkpoint, tiny_reward_model, policy):
    rewards = [
        bradley_terry(tiny_reward_model),
        bradley_terry(tiny_reward_model, mixed_precision="bf16"),
        bradley_terry(tiny_reward_model, max_length=9),
        make_reward("implicit", policy_dir=policy, reference_dir=tiny_checkpoint),
        make_reward("implicit", policy_dir=policy, reference_dir=tiny_checkpoint, beta=0.2),
        make_reward("implicit", policy_dir=tiny_checkpoint, reference_dir=policy),
        make_reward("rules"),
        make_reward("rules", requirements=[{"check": "no_commas"}]),
    ]
    assert len({reward.identity for reward in rewards}) == len(rewards)


def test_unknown_names_and_parameters_are_named():
    assert set(reward_names()) >= {"bradley_terry", "implicit", "generative", "rules", "combined"}
    with pytest.raises(ParameterError, match="unknown reward 'magic': choose one of bradley_terry"):
        make_reward("magic")
    with pytest.raises(ParameterError, match=r"reward 'bradley_terry': .*'temperature'.*it takes .*model_dir"):
        make_reward("bradley_terry", model_dir="x", temperature=1.0)
    with pytest.raises(ParameterError, match=r"reward 'implicit': missing a required argument: 'policy_dir'"):
        make_reward("implicit", reference_dir="x")
    with pytest.raises(ParameterError, match="beta is 0; it must be positive"):
        make_reward("implicit", policy_dir="x", reference_dir="y", beta=0)

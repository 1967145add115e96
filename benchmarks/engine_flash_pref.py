"""DPO steps with the package flash-pref around a plain model: the prompts of a pair are computed once.

    python benchmarks/engine_flash_pref.py '{"groups_path": ..., "architecture": ..., "batch": 4, "steps": 6}'

prints one JSON object last. The package patches transformers 4.49 to 4.51, so nothing of this project is imported here.
"""

import importlib.util
import json
import statistics
import sys
import time

import pandas as pd
import torch
from torch.nn.functional import cross_entropy, logsigmoid

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Measure what the argument describes."""
    sys.modules |= {"trl": None, "peft": None}  # the package would import them, and they need a newer transformers
    import flash_pref
    import transformers

    request = json.loads(sys.argv[1])
    groups = [*pd.read_parquet(request["groups_path"]).itertuples()][: request["batch"]]
    attention = "flash_attention_2" if importlib.util.find_spec("flash_attn") else "sdpa"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**request["architecture"], use_cache=False)
    with DEVICE:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    rows = [[*group.prompt_ids, *group.response_ids[i]] for i in (0, 1) for group in groups]
    n_prompts, most = [len(group.prompt_ids) for group in groups] * 2, max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (most - len(row))] for row in rows], device=DEVICE)
    mask = torch.tensor([[1] * len(row) + [0] * (most - len(row)) for row in rows], device=DEVICE)
    of_responses = torch.tensor(
        [[n <= i < len(row) for i in range(1, most)] for n, row in zip(n_prompts, rows, strict=True)], device=DEVICE
    )
    seconds = []
    for _ in range(request["steps"] + 2):
        begun = time.perf_counter()
        with flash_pref.shared_prefix(model, input_ids=ids, attention_mask=mask, interleaved=True):
            with torch.autocast(DEVICE.type, torch.bfloat16):
                logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            losses = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
            chosen, rejected = -(losses.view(of_responses.shape) * of_responses).sum(1).view(2, -1)
            (-logsigmoid(0.1 * (chosen - rejected))).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    step = statistics.median(seconds[2:])
    measured = {"step_ms": 1e3 * step, "useful_tokens_per_second": request["useful_tokens_per_step"] / step}
    peak = torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else 0.0
    print(json.dumps({**measured, "peak_gb": peak, "transformers": transformers.__version__, "attention": attention}))


if __name__ == "__main__":
    main()

"""The noise of compute precisions: log-probs and gradients of a model against fp32, on pairs of UltraFeedback.

    python benchmarks/precision.py MODEL [--trained TRAINED]

prints nats per response (mean and standard deviation over the responses), then JSON. With a trained model it also says
what rounding its weights to bf16 changes.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from engine_rows import ultrafeedback_groups

from rao_kedro.models.bf16_weights import round_weights
from rao_kedro.models.loading import load_causal_lm
from rao_kedro.models.logprobs import LogProbModel
from rao_kedro.models.packing import TokenizedGroup, pack_groups
from rao_kedro.scoring.forward import ForwardPass, score_logps

PRECISIONS = ("no", "bf16", "bf16_weights")
SMALL, LARGE = 1024, 4096  # tokens of a pack


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--trained", type=Path, help="a policy in fp32 that was trained from the model")
    parser.add_argument("--ultrafeedback", type=Path, default=Path("../shared/data/ultrafeedback/train.jsonl.gz"))
    parser.add_argument("--groups", type=int, default=60, help="pairs whose responses are scored")
    parser.add_argument("--longest", type=int, default=800, help="tokens of a pair with its prompt, at most")
    parser.add_argument("--gradient-groups", type=int, default=4, help="pairs whose gradient is compared")
    options = parser.parse_args()
    table = ultrafeedback_groups(options.ultrafeedback, options.model, 8 * options.groups)
    columns = (table[name] for name in ("group_id", "prompt_ids", "response_ids"))
    read = [TokenizedGroup(*row) for row in zip(*columns, strict=True)]
    groups = [group for group in read if group.n_tokens <= options.longest][: options.groups]
    found: dict[str, Any] = {"responses": 2 * len(groups)}
    found["tokens_per_response"] = statistics.fmean(len(ids) for group in groups for ids in group.response_ids)
    exact = logps(options.model, "no", SMALL, groups)
    found["nats_per_response"] = statistics.fmean(exact)
    print(found, flush=True)
    for precision in PRECISIONS[1:]:
        small, large = (logps(options.model, precision, size, groups) for size in (SMALL, LARGE))
        report(found, f"{precision}: against fp32", difference(small, exact))
        report(found, f"{precision}: packs of {SMALL} and {LARGE}", difference(small, large))
    if options.trained:
        report_rounding(found, options.model, options.trained, groups, exact)
    some = groups[: options.gradient_groups]
    gradients = {precision: gradient(options.model, precision, some) for precision in PRECISIONS}
    for precision in PRECISIONS[1:]:
        error = (gradients[precision] - gradients["no"]).norm() / gradients["no"].norm()
        found[f"{precision}: relative error of the gradient"] = float(error)
    print(json.dumps(found))


def module_of(directory: Path, precision: str) -> LogProbModel:
    """Return a model as training has it: loaded in fp32, and rounded where that is the precision."""
    module = LogProbModel(load_causal_lm(directory))
    if precision == "bf16_weights":
        round_weights(module)
    return module


def logps(directory: Path, precision: str, size: int, groups: list[TokenizedGroup]) -> list[float]:
    """Return the log-prob of every response."""
    scores = score_logps(module_of(directory, precision), groups, ForwardPass(precision, size, t0_length=1))
    return [value for of_group in scores.values() for value in of_group.responses]


def gradient(directory: Path, precision: str, groups: list[TokenizedGroup]) -> torch.Tensor:
    """Return the gradient of the mean margin of log-probs, all parameters as one vector."""
    module = module_of(directory, precision)
    for group in groups:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            responses = module(pack_groups([group])).responses
        (responses[:, 0] - responses[:, 1]).sum().div(len(groups)).backward()
    return torch.cat([parameter.grad.float().flatten() for parameter in module.parameters()])


def report_rounding(
    found: dict, base: Path, trained: Path, groups: list[TokenizedGroup], reference: list[float]
) -> None:
    """Say what rounding a trained policy's weights to bf16 changes."""
    start, policy = (load_causal_lm(directory) for directory in (base, trained))
    pairs = [*zip(start.parameters(), policy.parameters(), strict=True)]
    total = sum(weight.numel() for weight in policy.parameters())
    same = sum(int((w == w.bfloat16().float()).sum()) for w in policy.parameters())
    moved = sum(int((a != b).sum()) for a, b in pairs)
    kept = sum(int((a.bfloat16() != b.bfloat16()).sum()) for a, b in pairs)
    found["trained: share of weights that rounding changes"] = 1 - same / total
    found["trained: share of weights that training moved"] = moved / total
    found["trained: share that moved after rounding both"] = kept / total
    exact = logps(trained, "no", SMALL, groups)
    rounded = LogProbModel(policy)
    for weight in rounded.parameters():
        weight.data = weight.data.bfloat16().float()
    scores = score_logps(rounded, groups, ForwardPass("no", SMALL, t0_length=1))
    after = [value for of_group in scores.values() for value in of_group.responses]
    report(found, "trained: log-ratio to the start", difference(exact, reference))
    report(found, "trained: rounded against exact weights, in fp32", difference(after, exact))


def difference(one: list[float], other: list[float]) -> list[float]:
    """Return the differences of two lists."""
    return [a - b for a, b in zip(one, other, strict=True)]


def report(found: dict, name: str, values: list[float]) -> None:
    """Print and note mean, standard deviation and largest size of differences, in nats per response."""
    found[name] = {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values),
        "largest": max(map(abs, values)),
    }
    print(name, {key: round(value, 4) for key, value in found[name].items()}, flush=True)


if __name__ == "__main__":
    main()

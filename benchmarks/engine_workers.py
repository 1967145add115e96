"""One measured run of the training engine, in a process of its own: ours, or TRL's DPOTrainer on the same token ids.

    python benchmarks/engine_workers.py '{"kind": "ours", ...}'

prints one JSON object: seconds per step, seconds of the reference pass, losses, peak memory.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rao_kedro.training.forecast import peak_memory

LEARNING_RATE = 1e-6
BETA = 0.1


def random_model(auto: Any, architecture: dict, dtype: torch.dtype = torch.float32, **options) -> Any:
    """Return a Llama of random weights, made on the device: all are numbers of bf16, as those of real checkpoints."""
    from transformers import LlamaConfig

    torch.manual_seed(0)
    labels = {"num_labels": options["num_labels"]} if "num_labels" in options else {}
    attention = {key: value for key, value in options.items() if key == "attn_implementation"}
    with DEVICE:
        model = auto.from_config(LlamaConfig(**architecture, **labels), dtype=torch.float32, **attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.bfloat16().to(dtype)  # buffers stay in fp32, as in a model that is loaded
    return model


def load_random_weights(architecture: dict) -> None:
    """From here on, whatever is loaded has this architecture and random weights; no file of weights is read."""
    from rao_kedro.models import loading

    loading.open_model = lambda auto, model_dir, **options: random_model(auto, architecture, **options)


def ours(
    groups_path: Path,
    model_dir: Path,
    batch_size: int,
    mixed_precision: str,
    objective: str = "dpo",
    architecture: dict | None = None,
    max_tokens_per_batch: int | None = None,
    warmup: int = 1,
    **options,
) -> dict:
    """Train through `launch`, as a node does: steps to warm up, then the table in its order, in small packs."""
    from rao_kedro.config.specs import AlignmentSpec, ScoringSpec
    from rao_kedro.config.training import KLParameters, TrainingParameters
    from rao_kedro.config.workers import WorkerParameters
    from rao_kedro.training import loop
    from rao_kedro.training.progress import Progress
    from rao_kedro.workers import launch

    if architecture:
        load_random_weights(architecture)
    groups = pd.read_parquet(groups_path)
    useful = [len(p) + sum(map(len, r)) for p, r in zip(groups["prompt_ids"], groups["response_ids"], strict=True)]

    def steps_in_order(groups, size, seed, epoch, first):
        steps = [groups[i : i + size] for i in range(0, len(groups), size)]
        return [*steps[:1] * warmup, *steps][first:]

    graphs, report = [], Progress.report

    def count_graphs(*of, **values):
        graphs.append(compiled_graphs())
        report(*of, **values)

    loop.epoch_steps, Progress.report = steps_in_order, count_graphs
    max_tokens_per_batch = max_tokens_per_batch or max(useful)
    with tempfile.TemporaryDirectory() as directory:
        common = {"model_dir": model_dir, "groups_path": groups_path, "workspace": Path(directory)}
        workers = WorkerParameters(accelerate_config=Path(), in_process=True, workspaces=Path(directory))
        reference = Path(directory) / "reference.parquet"
        scoring = ScoringSpec(
            **common,
            output_path=reference,
            max_tokens_per_batch=max_tokens_per_batch,
            mixed_precision=mixed_precision,
        )
        started = time.perf_counter()
        launch(scoring, workers)
        reference_seconds = time.perf_counter() - started
        training = TrainingParameters(
            learning_rate=LEARNING_RATE,
            batch_size=batch_size,
            max_tokens_per_batch=max_tokens_per_batch,
            mixed_precision=mixed_precision,
            lr_scheduler="constant_with_warmup",
            warmup_ratio=0.0,
            keep="last",
            **options,
        )
        spec = AlignmentSpec(
            **common,
            reference_path=reference,
            objective=objective,
            objective_parameters={"beta": BETA} | ({"log_z0": "auto"} if objective == "rao" else {}),
            training=training,
            kl=KLParameters(prompts=0),
        )
        launch(spec, workers)
        log = pd.read_json(spec.log_path, lines=True)
        steps = log[log["loss"].notna()].iloc[warmup:]
        of_step = [sum(useful[i : i + batch_size]) for i in range(0, len(useful), batch_size)]
        seconds = [n / speed for n, speed in zip(of_step, steps["useful_tokens_per_second"], strict=True)]
        return {
            "step_seconds": seconds,
            "reference_seconds": reference_seconds,
            "losses": steps["loss"].tolist(),
            "mfu": sum(u * s for u, s in zip(steps["mfu"], seconds, strict=True)) / sum(seconds),
            "graphs": graphs,
        }


def compiled_graphs() -> tuple[int, int]:
    """Return how many graphs torch.compile has made so far, and how many breaks it found."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def trl(
    groups_path: Path,
    model_dir: Path,
    batch_size: int,
    bf16: bool,
    precompute: bool,
    batch: int,
    architecture: dict | None = None,
    attention: str = "sdpa",
    lora: dict | None = None,
    warmup: int = 1,
    **options,
) -> dict:
    """Train with TRL's own trainer on the rows' token ids: steps to warm up, then the table in its order."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class SameRows(DPOTrainer):
        def _prepare_dataset(self, dataset, *args):
            return dataset

        reference_seconds = 0.0

        def _precompute_ref_logps(self, *args):
            started = time.perf_counter()
            dataset = super()._precompute_ref_logps(*args)
            self.reference_seconds = time.perf_counter() - started
            return dataset

        def _get_train_sampler(self, dataset=None):
            return [*[*range(batch_size)] * warmup, *range(len(self.train_dataset))]

    class Clock(TrainerCallback):
        def __init__(self):
            self.seconds, self.losses = [], []

        def on_step_begin(self, *args, **kwargs):
            self.started = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            self.seconds.append(time.perf_counter() - self.started)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}):
                self.losses.append(logs["loss"])

    groups = pd.read_parquet(groups_path)
    rows = [
        {"prompt_ids": list(p), "chosen_ids": list(r[c]), "rejected_ids": list(r[j])}
        for p, r, c, j in zip(*(groups[k] for k in ("prompt_ids", "response_ids", "chosen", "rejected")), strict=True)
    ]
    how = {"dtype": torch.bfloat16 if lora else torch.float32, "attn_implementation": attention}
    if architecture:
        model = random_model(AutoModelForCausalLM, architecture, **how)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_dir, **how)
    with tempfile.TemporaryDirectory() as directory:
        args = DPOConfig(
            output_dir=directory,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=batch_size // batch,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            beta=BETA,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            precompute_ref_log_probs=precompute,
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            max_length=None,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        clock = Clock()
        trainer = SameRows(
            model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_dir),
            callbacks=[clock],
            peft_config=lora_config(**lora) if lora else None,
        )
        trainer.train()
        return {
            "step_seconds": clock.seconds[warmup:],
            "reference_seconds": trainer.reference_seconds,
            "losses": clock.losses[warmup:],
        }


def lora_config(rank: int, alpha: int) -> Any:
    """Return PEFT's configuration of what `training.lora` means here."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def log_probs(vocabulary: int, tokens: int, width: int) -> dict:
    """Take log-probs and their gradients once; what that needs beyond the weight and its two gradients at a time."""
    from rao_kedro.models.token_logps import LogitScaling, token_logps

    hidden = torch.randn(tokens, width, device=DEVICE, requires_grad=True)
    weight = (torch.randn(vocabulary, width, device=DEVICE) * 0.02).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), device=DEVICE)
    for tensor in (hidden, weight):
        tensor.grad = torch.zeros_like(tensor)
    before = peak_memory(DEVICE)
    token_logps(hidden, weight, None, targets, LogitScaling()).sum().backward()
    added = peak_memory(DEVICE) - before
    return {"beyond_weights_mb": (added - weight.numel() * 4) / 1e6}


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    kind = request.pop("kind")
    measured = {"ours": ours, "trl": trl, "log_probs": log_probs}[kind](
        **{key: Path(value) if key in ("groups_path", "model_dir") else value for key, value in request.items()}
    )
    measured["peak_gb"] = peak_memory(DEVICE) / 1e9
    print(json.dumps(measured))

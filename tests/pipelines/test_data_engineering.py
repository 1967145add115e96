"""The nodes of data engineering, on the tiny model."""

import json
from pathlib import Path

import pandas as pd
import pytest
from data_tables import frame
from launching import workers_in

from rao_kedro.config.data_engineering import DataParameters, SampledResponses
from rao_kedro.config.specs import TrainingSpec
from rao_kedro.data.tables import EvaluationPromptTable, TokenizedGroupTable
from rao_kedro.data.token_tables import read_groups
from rao_kedro.models.chat import prompt_token_ids
from rao_kedro.models.chat_format import load_chat_format
from rao_kedro.models.tiny import CHATML
from rao_kedro.pipelines.data_engineering.nodes import collect_preferences, tokenize
from rao_kedro.training.tasks.sft import SupervisedFinetuning

ROOT = Path(__file__).parents[2]
LIMITS = {"max_prompt_tokens": 256, "max_response_tokens": 96}


def sampled():
    sampling = {"n": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 24, "seed": 0}
    how = {"backend": "transformers", "dtype": "float32", "max_model_len": 512, "sampling": sampling}
    counts = {"train_prompts": 40, "validation_prompts": 40, "test_prompts": 40, "generation": how}
    return DataParameters(source="sampled", evaluation_prompts=40, sampled=counts, **LIMITS)


def written(path, prompts):
    """Write two rows per prompt, each with a preference of its own."""
    rows = [
        {"prompt": prompt, "chosen": f"{prompt} yes {i}", "rejected": f"{prompt} no {i}"}
        for i in range(2)
        for prompt in prompts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def files(directory, **validation):
    sources = {
        "train": written(directory / "train.jsonl", "abcdefgh"),
        "test": written(directory / "held_out.jsonl", "hijklmnop"),  # h is in train, too
        **{name: written(directory / f"{name}.jsonl", prompts) for name, prompts in validation.items()},
    }
    return DataParameters(source="preferences", evaluation_prompts=3, preferences=sources, **LIMITS)


def test_another_model_may_write_the_responses(tmp_path, tiny_checkpoint):
    """It has other weights and another end of turn; the base model only says which prompts are the same."""
    (tmp_path / "end.jinja").write_text(CHATML.replace("<|im_end|>", "<|endoftext|>"))
    writer = {"source": "checkpoint", "name": str(tiny_checkpoint), "chat_template": str(tmp_path / "end.jinja")}
    data = sampled()
    prompts = pd.read_json(ROOT / "data/01_raw/prompts.jsonl", lines=True)
    texts = []
    for model in (None, writer):
        by = SampledResponses(**data.sampled.model_dump() | {"model": model})
        groups, _ = collect_preferences("sampled", by, None, 40, prompts, tiny_checkpoint, workers_in(tmp_path))
        texts.append(frame(groups)["responses"].map(list).tolist())
    assert texts[0] != texts[1]
    imported = tmp_path / "collection/sampler/model"
    assert len(load_chat_format(imported).end_of_turn_ids) == 2


@pytest.mark.parametrize("source", ["sampled", "files", "files with a source for validation"])
def test_what_is_trained_on_evaluated_in_training_and_reported_share_no_prompt(source, tmp_path, tiny_checkpoint):
    data = sampled() if source == "sampled" else files(tmp_path, **({"validation": "pqrb"} if "with" in source else {}))
    prompts = pd.read_json(ROOT / "data/01_raw/prompts.jsonl", lines=True)
    where_from = (data.source, data.sampled, data.preferences, data.evaluation_prompts)
    groups, unreadable = collect_preferences(*where_from, prompts, tiny_checkpoint, workers_in(tmp_path))
    limits = (data.max_prompt_tokens, data.max_response_tokens, data.t0_length, data.pairing, data.seed)
    how = (data.num_proc, workers_in(tmp_path))
    path, evaluation, _, _ = tokenize(groups, unreadable, prompts, tiny_checkpoint, *where_from, *limits, *how)
    TokenizedGroupTable.validate(frame(path))
    training = {"learning_rate": 1e-3, "mixed_precision": "no"}
    task = SupervisedFinetuning(
        TrainingSpec(workspace=tmp_path, model_dir=tiny_checkpoint, groups_path=path, training=training)
    )
    parts = {
        "train": {tuple(group.prompt_ids) for group in task.train_groups},
        "validation": {tuple(group.prompt_ids) for group in task.eval_groups},
        "reported groups": {tuple(group.prompt_ids) for group in read_groups(path, "test")},
    }
    chat = load_chat_format(tiny_checkpoint)
    asked = [tuple(prompt_token_ids(chat, m)) for m in EvaluationPromptTable.validate(evaluation)["messages"]]
    assert all(parts.values())
    assert len(set(asked)) == len(asked) == data.evaluation_prompts
    for name in ("train", "validation"):
        assert not parts[name] & {*asked}, name
        assert not parts[name] & parts["reported groups"], name
    assert not parts["train"] & parts["validation"]
    if source == "files":  # what is answered and what is reported of the data are the same prompts
        assert parts["reported groups"] == {*asked}
    else:
        assert parts["reported groups"] & {*asked}
